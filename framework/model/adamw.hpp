// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>

#include "framework/model/optimizer.hpp"

namespace kumiko {

// AdamW (Loshchilov and Hutter 2019), moments in fp32:
//   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p (1 - lr wd) - lr / (1-b1^t) * m / (sqrt(v) / sqrt(1-b2^t) + eps).
class AdamW final : public Optimizer {
 public:
  AdamW(const OptimizerOptions& options, const std::vector<Parameter*>& parameters);
  void step(double learning_rate) override;
  void forget(const std::string& param_name) override;
  void transform(const std::string& param_name, const MomentMap& map) override;
  std::vector<at::Tensor> state_tensors(const std::string& param_name) override;
  std::int64_t state_nbytes() const override;
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

 private:
  struct State {
    Parameter* parameter;
    at::Tensor exp_avg, exp_avg_sq;
    at::Tensor step;   // [], fp32 as the fused kernel wants it; exact up to 2^24
  };
  State& find(const std::string& param_name);

  OptimizerOptions options_;
  std::vector<State> states_;
};

}  // namespace kumiko
