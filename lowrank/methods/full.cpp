// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/full.hpp"

#include <ATen/ATen.h>

namespace kumiko::lowrank {

FullMethod::FullMethod(const MethodContext& context)
    : BasicMethod(context), targets_(Targets::parse(context.options)),
      storage_(StorageOptions::parse(context.options, {.has_basis = false})) {}

std::unique_ptr<Linear> FullMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  return targets_.has(spec) ? make_trained(spec, initial, storage_) : make_dense(spec, initial);
}

void FullMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  for (const auto& spec : model.linear_specs()) {
    if (targets_.has(spec)) {
      plan_trained(spec, storage_, plan);
    } else {
      plan_dense(spec, plan);
    }
  }
}

}  // namespace kumiko::lowrank
