// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/update_rule.hpp"

namespace kumiko {

// What Adam and its relatives read of the block `optimizer`: betas, eps.
struct AdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;

  static AdamOptions parse(const ConfigNode& node);
  double bias_correction(double steps) const;   // sqrt(1 - b2^t) / (1 - b1^t); 1 before the first step
};

// AdamW (Loshchilov and Hutter 2019):
//   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p (1 - lr wd) - lr / (1-b1^t) * m / (sqrt(v) / sqrt(1-b2^t) + eps).
// All of it in fp32; m and v are kept in `state`, rounded to nearest. In bf16 a v that falls by less than 1/512 a step stands still.
class AdamW final : public UpdateRule {
 public:
  AdamW(const AdamOptions& options, const RuleSpec& spec, at::ScalarType state = at::kFloat);
  void apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) override;
  void forget() override;
  void transform(const MomentMap& map) override;
  void resize(at::IntArrayRef sizes) override;
  double bias_correction() const override { return options_.bias_correction(step_.item<double>()); }
  std::vector<at::Tensor> state_tensors() override { return {exp_avg_, exp_avg_sq_, step_}; }
  std::int64_t state_nbytes() const override { return nbytes_for(exp_avg_.numel(), state_); }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

  static std::int64_t nbytes_for(std::int64_t numel, at::ScalarType state = at::kFloat) {
    return 2 * numel * static_cast<std::int64_t>(c10::elementSize(state)) + 4;
  }

 private:
  AdamOptions options_;
  at::ScalarType state_;
  at::Tensor exp_avg_, exp_avg_sq_;
  at::Tensor step_;   // [], fp32 as the fused kernel wants it; exact up to 2^24
};

// `adamw`: keys of AdamOptions, and state: fp32 | bf16.
class AdamWFactory final : public RuleFactory {
 public:
  explicit AdamWFactory(const ConfigNode& node);
  std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const override { return std::make_unique<AdamW>(options_, spec, state_); }
  std::int64_t rule_nbytes(const RuleSpec& spec) const override {
    return AdamW::nbytes_for(c10::multiply_integers(spec.sizes), state_);
  }

 private:
  AdamOptions options_;
  at::ScalarType state_;
};

}  // namespace kumiko
