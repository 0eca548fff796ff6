// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "lowrank/methods/basic_method.hpp"

namespace kumiko::lowrank {

// All matrices trained in full size by the recipe's optimizer; those of `targets` in the storage of `quantization`.
class FullMethod final : public BasicMethod {
 public:
  explicit FullMethod(const MethodContext& context);
  std::string_view name() const noexcept override { return "full"; }
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override;
  void validate(const ModelOptions& /*model*/) const override {}
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;

 private:
  Targets targets_;
  StorageOptions storage_;
};

}  // namespace kumiko::lowrank
