// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/lora.hpp"

#include <algorithm>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::lowrank {

LoraOptions LoraOptions::parse(const ConfigNode& node, const StorageOptions::Defaults& defaults, std::int64_t hidden_size) {
  LoraOptions options;
  options.rank = parse_rank(node, hidden_size);
  options.alpha = node.real("alpha", options.alpha, {1e-6, 1e6});
  options.targets = Targets::parse(node);
  options.storage = StorageOptions::parse(node, defaults);
  options.factor_dtype = parse_factor_dtype(node);
  return options;
}

LoraMethod::LoraMethod(const MethodContext& context, std::string name, std::string_view weights)
    : LoraMethod(context, std::move(name),
                 LoraOptions::parse(context.options, {.weights = weights, .has_basis = false, .requantizes = false},
                                    context.model.hidden_size)) {}

LoraMethod::LoraMethod(const MethodContext& context, std::string name, LoraOptions options)
    : BasicMethod(context), name_(std::move(name)), options_(options) {}

std::uint64_t LoraMethod::factor_seed(const LinearSpec& spec, std::int64_t restart) const {
  return stream_seed(seed_, concat("lora_A/", spec.name, "/", restart));
}

std::unique_ptr<Linear> LoraMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  if (!options_.targets.has(spec)) return make_dense(spec, initial);
  const LoraLinearOptions options{options_.rank,         options_.alpha / static_cast<double>(options_.rank),
                                  options_.storage.weights, options_.factor_dtype,
                                  param_dtype_,          device_};
  auto linear = std::make_unique<LoraLinear>(spec, initial, options, factor_seed(spec, 0));
  layers_.push_back(linear.get());
  return linear;
}

void LoraMethod::validate(const ModelOptions& model) const { check_rank(options_.rank, options_.targets, model.linear_specs()); }

void LoraMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  const std::int64_t rank = options_.rank;
  for (const auto& spec : model.linear_specs()) {
    if (!options_.targets.has(spec)) {
      plan_dense(spec, plan);
      continue;
    }
    const std::int64_t numel = spec.in_features * spec.out_features;
    plan_stored(numel, options_.storage.weights, plan);
    plan_factors(spec, rank, options_.factor_dtype, plan);
    plan.scratch = std::max(plan.scratch, 4 * numel);   // W + s B A
  }
}

}  // namespace kumiko::lowrank
