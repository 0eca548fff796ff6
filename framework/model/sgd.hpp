// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/momentum_rule.hpp"

namespace kumiko {

// Keys and meaning of torch.optim.SGD: momentum, dampening, nesterov.
struct SgdOptions {
  double momentum = 0.0;
  double dampening = 0.0;
  bool nesterov = false;   // needs momentum and no dampening

  static SgdOptions parse(const ConfigNode& node);
};

// SGD with momentum, torch.optim.SGD's arithmetic, except that weight decay is decoupled as everywhere here:
//   b = u b + (1-d) g, at first b = g;  direction b, with nesterov g + u b.
class Sgd final : public MomentumRule {
 public:
  Sgd(const SgdOptions& options, const RuleSpec& spec);
  void apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) override;
  void forget() override;
  void resize(at::IntArrayRef sizes) override;
  std::vector<at::Tensor> state_tensors() override;
  std::int64_t state_nbytes() const override { return MomentumRule::state_nbytes() + (started_.defined() ? 4 : 0); }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

  static std::int64_t nbytes_for(const SgdOptions& options, std::int64_t numel);

 private:
  SgdOptions options_;
  at::Tensor started_;   // [], fp32, 0 before the first gradient; only where dampening tells that one from others
};

class SgdFactory final : public RuleFactory {
 public:
  explicit SgdFactory(const ConfigNode& node) : options_(SgdOptions::parse(node)) {}
  std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const override { return std::make_unique<Sgd>(options_, spec); }
  std::int64_t rule_nbytes(const RuleSpec& spec) const override { return Sgd::nbytes_for(options_, c10::multiply_integers(spec.sizes)); }

 private:
  SgdOptions options_;
};

}  // namespace kumiko
