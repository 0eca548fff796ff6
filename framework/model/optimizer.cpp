// SPDX-License-Identifier: Apache-2.0
#include "framework/model/optimizer.hpp"

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/model/adafactor.hpp"
#include "framework/model/adam8bit.hpp"
#include "framework/model/adamw.hpp"
#include "framework/model/column_norm.hpp"
#include "framework/model/muon.hpp"
#include "framework/model/sgd.hpp"

namespace kumiko {

double LrScale::of(ParamRole role) const noexcept {
  switch (role) {
    case ParamRole::embedding: return embedding;
    case ParamRole::head: return head;
    case ParamRole::norm: return norms;
    case ParamRole::matrix:
    case ParamRole::factor: return matrices;
  }
  return 1.0;
}

OptimizerOptions OptimizerOptions::parse(const ConfigNode& node) {
  OptimizerOptions options;
  options.name = node.text("name", options.name);
  options.lr = node.real("lr", options.lr, {0.0, 1e3});
  const ConfigNode scale = node.child("lr_scale");
  options.lr_scale.matrices = scale.real("matrices", 1.0, {0.0, 1e3});
  options.lr_scale.embedding = scale.real("embedding", 1.0, {0.0, 1e3});
  options.lr_scale.head = scale.real("head", 1.0, {0.0, 1e3});
  options.lr_scale.norms = scale.real("norms", 1.0, {0.0, 1e3});
  options.weight_decay = node.real("weight_decay", 0.0, {0.0, 10.0});
  return options;
}

Optimizer::Optimizer(const OptimizerOptions& options, const std::vector<Parameter*>& parameters, const RuleFactory& rules, at::Device device)
    : options_(options) {
  for (Parameter* p : parameters) {
    index_[p->name] = entries_.size();
    RuleSpec spec{p->name, p->role, p->grad_sizes().vec(), device, p->output_dim};
    spec.sees_value = p->target == nullptr;
    spec.is_last_layer = p->is_last_layer;
    entries_.push_back({p, rules.make_rule(spec)});
  }
}

UpdateRule& Optimizer::find(const std::string& param_name) {
  const auto found = index_.find(param_name);
  TORCH_INTERNAL_ASSERT(found != index_.end(), "the optimizer holds no parameter ", param_name);
  return *entries_[found->second].rule;
}

void Optimizer::step(double learning_rate) {
  for (Entry& entry : entries_) update(*entry.parameter, learning_rate);
}

void Optimizer::update(Parameter& parameter, double learning_rate) {
  UpdateRule& rule = find(parameter.name);
  const double lr = learning_rate * options_.lr_scale.of(parameter.role);
  const bool decays = parameter.role == ParamRole::matrix || parameter.role == ParamRole::factor;
  const double weight_decay = decays ? options_.weight_decay : 0.0;
  if (parameter.target != nullptr) {
    at::Tensor update = at::zeros_like(parameter.grad);
    rule.apply(update, parameter.grad, lr, 0.0);
    parameter.target->apply_update(update, lr * weight_decay);
    return;
  }
  // Parameters below fp32 are updated in fp32 and rounded once.
  at::Tensor value = parameter.value.to(at::kFloat);
  rule.apply(value, parameter.grad, lr, weight_decay);
  if (!value.is_same(parameter.value)) parameter.value.copy_(value);
}

std::int64_t Optimizer::state_nbytes() const {
  std::int64_t bytes = 0;
  for (const Entry& entry : entries_) bytes += entry.rule->state_nbytes();
  return bytes;
}

void Optimizer::save(StateWriter& out) const {
  for (const Entry& entry : entries_) {
    ScopedWriter scoped(out, entry.parameter->name + "/");
    entry.rule->save(scoped);
  }
}

void Optimizer::load(const StateReader& in) {
  for (Entry& entry : entries_) {
    entry.rule->resize(entry.parameter->grad_sizes());
    entry.rule->load(ScopedReader(in, entry.parameter->name + "/"));
  }
}

void register_builtin_optimizers(OptimizerRegistry& registry) {
  registry.add("adamw", [](const ConfigNode& node) { return std::make_unique<AdamWFactory>(node); });
  registry.add("adam8bit", [](const ConfigNode& node) { return std::make_unique<Adam8bitFactory>(node); });
  registry.add("adafactor", [](const ConfigNode& node) { return std::make_unique<AdafactorFactory>(node); });
  registry.add("sgd", [](const ConfigNode& node) { return std::make_unique<SgdFactory>(node); });
  registry.add("muon", [](const ConfigNode& node) { return std::make_unique<MuonFactory>(node); });
  registry.add("column_norm", [](const ConfigNode& node) { return std::make_unique<ColumnNormFactory>(node); });
}

}  // namespace kumiko
