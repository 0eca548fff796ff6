// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/update_rule.hpp"

namespace kumiko {

// A rule whose state is at most one average of gradients, fp32: what SGD, Muon and column normalisation share.
class MomentumRule : public UpdateRule {
 public:
  void forget() override;
  void transform(const MomentMap& map) override;
  void resize(at::IntArrayRef sizes) override;
  std::vector<at::Tensor> state_tensors() override;
  std::int64_t state_nbytes() const override;
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

 protected:
  MomentumRule(const RuleSpec& spec, bool keeps_momentum);

  at::Tensor momentum_;   // undefined where none is kept

 private:
  at::Device device_;
  bool keeps_momentum_;
};

}  // namespace kumiko
