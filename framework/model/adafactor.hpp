// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/core/config.hpp"
#include "framework/model/update_rule.hpp"

namespace kumiko {

// Keys of transformers' Adafactor.
struct AdafactorOptions {
  double eps1 = 1e-30, eps2 = 1e-3;   // eps: of squared gradients, of the parameter's scale
  double clip_threshold = 1.0;        // d: the largest root mean square of an update
  double decay_rate = -0.8;           // second moments forget by 1 - t^decay_rate
  double beta1 = 0.0;                 // 0: no first moment
  bool scale_parameter = false;       // times max(eps2, root mean square of the parameter)
  bool relative_step = false;         // at most 1 / sqrt(t); lr bounds it, as in torch.optim.Adafactor

  static AdafactorOptions parse(const ConfigNode& node);
};

// Adafactor (arXiv 1804.04235, algorithms 4 and 5) with transformers' arithmetic. For a matrix the second moments are means over its
// rows and over its columns:
//   R = b R + (1-b) mean_columns(g^2 + eps1);  C = b C + (1-b) mean_rows(g^2 + eps1);  b = 1 - t^decay_rate;
//   u = g / sqrt(R C / mean(R));  u = u / max(1, rms(u) / d);
// for others V = b V + (1-b) (g^2 + eps1), u = g / sqrt(V). With beta1 the direction is the average of u; lr stays outside of it, so that
// a schedule acts at once (transformers averages lr u).
// A new basis maps R C / mean(R) as it would any second moment, and R and C are the means of the result.
class Adafactor final : public UpdateRule {
 public:
  Adafactor(const AdafactorOptions& options, const RuleSpec& spec);
  void apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) override;
  void forget() override;
  void transform(const MomentMap& map) override;
  void resize(at::IntArrayRef sizes) override;
  std::vector<at::Tensor> state_tensors() override;
  std::int64_t state_nbytes() const override;
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

  static std::int64_t nbytes_for(const AdafactorOptions& options, at::IntArrayRef sizes);

 private:
  bool factored() const noexcept { return columns_.defined(); }
  void update_moments(const at::Tensor& gradient, double keep);
  void divide_by_root(at::Tensor& gradient) const;

  AdafactorOptions options_;
  at::Tensor rows_;      // R [rows, 1], or V
  at::Tensor columns_;   // C [1, columns]; undefined for V
  at::Tensor exp_avg_;   // undefined without beta1
  at::Tensor step_;      // [], fp32; exact up to 2^24
};

class AdafactorFactory final : public RuleFactory {
 public:
  explicit AdafactorFactory(const ConfigNode& node) : node_(node), options_(AdafactorOptions::parse(node)) {}
  // Throws UsageError where scale_parameter is asked for and the rule will not see the parameter's values, or relative_step and it
  // will not see the rate.
  std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const override;
  std::int64_t rule_nbytes(const RuleSpec& spec) const override {   // throws likewise
    check(spec);
    return Adafactor::nbytes_for(options_, spec.sizes);
  }

 private:
  void check(const RuleSpec& spec) const;

  ConfigNode node_;
  AdafactorOptions options_;
};

}  // namespace kumiko
