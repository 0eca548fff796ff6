// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/full.hpp"

#include <ATen/ATen.h>

#include "framework/model/dense_linear.hpp"

namespace kumiko::lowrank {

FullMethod::FullMethod(const MethodContext& context)
    : optimizer_options_(context.optimizer), optimizers_(context.optimizers), param_dtype_(context.param_dtype), device_(context.device) {}

std::unique_ptr<Linear> FullMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  return std::make_unique<DenseLinear>(spec, initial, param_dtype_, device_);
}

std::unique_ptr<Optimizer> FullMethod::make_optimizer(const std::vector<Parameter*>& parameters) {
  return optimizers_.make(optimizer_options_.name, optimizer_options_, parameters);
}

void FullMethod::validate(const ModelOptions& /*model*/) const {}

void FullMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  const std::int64_t count = model.linear_parameters();
  plan.weights += count * static_cast<std::int64_t>(at::elementSize(param_dtype_));
  plan.moments += 8 * count;
  plan.gradients += 4 * count;
}

}  // namespace kumiko::lowrank
