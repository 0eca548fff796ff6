// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/basic_method.hpp"

#include <algorithm>

#include <ATen/ATen.h>

#include "framework/model/dense_linear.hpp"
#include "lowrank/quantized_linear.hpp"
#include "quant/quantized_tensor.hpp"

namespace kumiko::lowrank {

std::unique_ptr<Linear> BasicMethod::make_dense(const LinearSpec& spec, const at::Tensor& initial) const {
  return std::make_unique<DenseLinear>(spec, initial, param_dtype_, device_);
}

void BasicMethod::plan_dense(const LinearSpec& spec, MemoryPlan& plan) const {
  const std::int64_t numel = spec.in_features * spec.out_features;
  plan.weights += numel * static_cast<std::int64_t>(at::elementSize(param_dtype_));
  plan.moments += moments_nbytes(spec, ParamRole::matrix, {spec.out_features, spec.in_features});
  plan.add_gradient(4 * numel);
}

std::int64_t BasicMethod::plan_stored(std::int64_t numel, const quant::QuantFormat& format, MemoryPlan& plan) const {
  const auto& codec = quant::codec_of(format.codec);
  const std::int64_t stored = quant::QuantizedTensor::nbytes_for(numel, format, param_dtype_);
  const std::int64_t codes = codec.bits > 0 ? codec.code_bytes(numel) : stored;
  plan.weights += codes;
  plan.scales += stored - codes;
  return stored;
}

// In fp32 there is nothing to round.
bool BasicMethod::stays_dense(const StorageOptions& storage) const noexcept {
  return !storage.quantized() && (storage.rounding == Rounding::nearest || param_dtype_ == at::kFloat);
}

std::unique_ptr<Linear> BasicMethod::make_trained(const LinearSpec& spec, const at::Tensor& initial, const StorageOptions& storage) const {
  if (stays_dense(storage)) return make_dense(spec, initial);
  return std::make_unique<QuantizedLinear>(spec, initial,
                                           QuantizedLinearOptions{storage.weights, storage.rounding, param_dtype_, device_, seed_});
}

void BasicMethod::plan_trained(const LinearSpec& spec, const StorageOptions& storage, MemoryPlan& plan) const {
  if (stays_dense(storage)) return plan_dense(spec, plan);
  const std::int64_t numel = spec.in_features * spec.out_features;
  const std::int64_t stored = plan_stored(numel, storage.weights, plan);
  plan.moments += moments_nbytes(spec, ParamRole::matrix, {spec.out_features, spec.in_features}, /*sees_value=*/false);
  plan.add_gradient(4 * numel);
  plan.scratch = std::max(plan.scratch, 4 * numel * 2 + stored);   // the update, the decoded weight, and the next codes
}

void BasicMethod::plan_factors(const LinearSpec& spec, std::int64_t rank, at::ScalarType dtype, MemoryPlan& plan) const {
  const std::int64_t numel = rank * (spec.in_features + spec.out_features);
  plan.factor += numel * static_cast<std::int64_t>(at::elementSize(dtype));
  plan.moments += moments_nbytes(spec, ParamRole::factor, {rank, spec.in_features});
  plan.moments += moments_nbytes(spec, ParamRole::factor, {spec.out_features, rank});
  plan.add_gradient(4 * numel);
}

std::int64_t BasicMethod::moments_nbytes(const LinearSpec& spec, ParamRole role, std::vector<std::int64_t> sizes, bool sees_value) const {
  RuleSpec rule{spec.name + (role == ParamRole::factor ? ".factor" : ".weight"), role, std::move(sizes), device_};
  rule.sees_value = sees_value;
  return rule_nbytes(rule);
}

}  // namespace kumiko::lowrank
