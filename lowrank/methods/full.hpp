// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "lowrank/methods/basic_method.hpp"

namespace kumiko::lowrank {

// All matrices dense and trained.
class FullMethod final : public BasicMethod {
 public:
  explicit FullMethod(const MethodContext& context) : BasicMethod(context) {}
  std::string_view name() const noexcept override { return "full"; }
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override { return make_dense(spec, initial); }
  void validate(const ModelOptions& /*model*/) const override {}
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;
};

}  // namespace kumiko::lowrank
