// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/scale.hpp"

#include <array>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"

namespace kumiko::lowrank {
namespace {

bool is_vector(const RuleSpec& spec) { return spec.sizes.size() != 2; }

}  // namespace

ScaleOptions ScaleOptions::parse(const ConfigNode& node) {
  constexpr std::array<std::pair<std::string_view, ColumnLength>, 2> kLengths = {
      {{"rms", ColumnLength::rms}, {"euclidean", ColumnLength::euclidean}}};
  ScaleOptions options;
  options.beta = node.real("beta", options.beta, {0.0, 0.99999999});
  options.length = node.choice("length", options.length, kLengths);
  options.targets = Targets::parse(node);
  options.storage = StorageOptions::parse(node, {.has_basis = false});
  return options;
}

ScaleMethod::ScaleMethod(const MethodContext& context)
    : BasicMethod(context), options_(ScaleOptions::parse(context.options)),
      last_layer_(context.model.tie_embeddings ? ParamRole::embedding : ParamRole::head) {}

std::unique_ptr<Linear> ScaleMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  return options_.targets.has(spec) ? make_trained(spec, initial, options_.storage) : make_dense(spec, initial);
}

ColumnNormOptions ScaleMethod::column_options(ParamRole role) const noexcept {
  return {role == last_layer_ ? options_.beta : 0.0, options_.length};
}

std::unique_ptr<UpdateRule> ScaleMethod::make_rule(const RuleSpec& spec) const {
  if (is_vector(spec)) return BasicMethod::make_rule(spec);
  return std::make_unique<ColumnNorm>(column_options(spec.role), spec);
}

std::int64_t ScaleMethod::rule_nbytes(const RuleSpec& spec) const {
  if (is_vector(spec)) return BasicMethod::rule_nbytes(spec);
  return ColumnNorm::nbytes_for(column_options(spec.role), c10::multiply_integers(spec.sizes));
}

void ScaleMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  for (const auto& spec : model.linear_specs()) {
    if (options_.targets.has(spec)) {
      plan_trained(spec, options_.storage, plan);
    } else {
      plan_dense(spec, plan);
    }
  }
}

}  // namespace kumiko::lowrank
