// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/column_norm.hpp"
#include "lowrank/methods/basic_method.hpp"

namespace kumiko::lowrank {

struct ScaleOptions {
  double beta = 0.9;                         // of the last layer's momentum; 0: none
  ColumnLength length = ColumnLength::rms;
  Targets targets;                           // matrices that `storage` is for
  StorageOptions storage;

  static ScaleOptions parse(const ConfigNode& node);
};

// SCALE (arXiv 2506.16659, Algorithm 1): each column of each matrix's gradient, that is the entries of one output, is brought to
// one length and moves the weight by lr; only the last layer, lm_head or a tied embedding, averages its gradients first,
// m = beta m + (1 - beta) g. The recipe's optimizer moves the vectors.
class ScaleMethod final : public BasicMethod {
 public:
  explicit ScaleMethod(const MethodContext& context);
  std::string_view name() const noexcept override { return "scale"; }
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override;
  std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const override;
  std::int64_t rule_nbytes(const RuleSpec& spec) const override;
  void validate(const ModelOptions& /*model*/) const override {}
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;

 private:
  ColumnNormOptions column_options(ParamRole role) const noexcept;

  ScaleOptions options_;
  ParamRole last_layer_;
};

}  // namespace kumiko::lowrank
