// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/method.hpp"

namespace kumiko::lowrank {

// All matrices dense and trained.
class FullMethod final : public Method {
 public:
  explicit FullMethod(const MethodContext& context);
  std::string_view name() const noexcept override { return "full"; }
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override;
  std::unique_ptr<Optimizer> make_optimizer(const std::vector<Parameter*>& parameters) override;
  void validate(const ModelOptions& model) const override;
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;

 private:
  OptimizerOptions optimizer_options_;
  const OptimizerRegistry& optimizers_;
  at::ScalarType param_dtype_;
  at::Device device_;
};

}  // namespace kumiko::lowrank
