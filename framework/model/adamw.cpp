// SPDX-License-Identifier: Apache-2.0
#include "framework/model/adamw.hpp"

#include <cmath>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

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
  const auto betas = node.reals("betas", {options.beta1, options.beta2}, {0.0, 0.99999999});
  if (betas.size() != 2) node.fail("betas", concat("has ", betas.size(), " numbers, needs two: [0.9, 0.999]"));
  options.beta1 = betas[0];
  options.beta2 = betas[1];
  options.eps = node.real("eps", options.eps, {1e-30, 1.0});   // 0 would divide 0 by 0 where a gradient was never seen
  options.weight_decay = node.real("weight_decay", 0.0, {0.0, 10.0});
  return options;
}

AdamW::AdamW(const OptimizerOptions& options, const std::vector<Parameter*>& parameters) : options_(options) {
  for (Parameter* p : parameters) {
    const auto fp32 = p->value.options().dtype(at::kFloat);
    states_.push_back({p, at::zeros(p->value.sizes(), fp32), at::zeros(p->value.sizes(), fp32), at::zeros({}, fp32)});
  }
}

void AdamW::step(double learning_rate) {
  for (State& state : states_) {
    Parameter& p = *state.parameter;
    const double lr = learning_rate * options_.lr_scale.of(p.role);
    const bool decays = p.role == ParamRole::matrix || p.role == ParamRole::factor;
    const double weight_decay = decays ? options_.weight_decay : 0.0;
    state.step.add_(1.0);
    // Parameters below fp32 are updated in fp32 and rounded once.
    at::Tensor value = p.value.to(at::kFloat);
    at::_fused_adamw_({value}, {p.grad}, {state.exp_avg}, {state.exp_avg_sq}, {}, {state.step}, lr, options_.beta1, options_.beta2,
                      weight_decay, options_.eps, /*amsgrad=*/false, /*maximize=*/false);
    if (!value.is_same(p.value)) p.value.copy_(value);
  }
}

AdamW::State& AdamW::find(const std::string& param_name) {
  for (State& state : states_) {
    if (state.parameter->name == param_name) return state;
  }
  TORCH_INTERNAL_ASSERT(false, "adamw holds no parameter ", param_name);
}

void AdamW::forget(const std::string& param_name) {
  State& state = find(param_name);
  state.exp_avg.zero_();
  state.exp_avg_sq.zero_();
  state.step.zero_();
}

void AdamW::transform(const std::string& param_name, const MomentMap& map) {
  State& state = find(param_name);
  state.exp_avg.copy_(map(state.exp_avg, 1));
  state.exp_avg_sq.copy_(map(state.exp_avg_sq, 2));
}

std::vector<at::Tensor> AdamW::state_tensors(const std::string& param_name) {
  State& state = find(param_name);
  return {state.exp_avg, state.exp_avg_sq, state.step};
}

std::int64_t AdamW::state_nbytes() const {
  std::int64_t bytes = 0;
  for (const State& state : states_) bytes += 4 * (2 * state.exp_avg.numel() + 1);
  return bytes;
}

void AdamW::save(StateWriter& out) const {
  for (const State& state : states_) {
    out.tensor(state.parameter->name + "/exp_avg", state.exp_avg);
    out.tensor(state.parameter->name + "/exp_avg_sq", state.exp_avg_sq);
    out.tensor(state.parameter->name + "/step", state.step);
  }
}

void AdamW::load(const StateReader& in) {
  for (State& state : states_) {
    in.read_into(state.parameter->name + "/exp_avg", state.exp_avg);
    in.read_into(state.parameter->name + "/exp_avg_sq", state.exp_avg_sq);
    in.read_into(state.parameter->name + "/step", state.step);
  }
}

void register_builtin_optimizers(OptimizerRegistry& registry) {
  registry.add("adamw", [](const OptimizerOptions& options, const std::vector<Parameter*>& parameters) {
    return std::make_unique<AdamW>(options, parameters);
  });
}

}  // namespace kumiko
