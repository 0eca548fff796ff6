// SPDX-License-Identifier: Apache-2.0
// A tiny LLaMA with any method, and batches for it.
#pragma once

#include <map>
#include <memory>
#include <string>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/rng.hpp"
#include "framework/model/llama.hpp"
#include "framework/model/method.hpp"
#include "lowrank/methods/builtin.hpp"

namespace kumiko::test {

inline ModelOptions tiny_options() {
  ModelOptions options;
  options.vocab_size = 61;
  options.hidden_size = 32;
  options.intermediate_size = 43;   // odd: blocks of 64 cross rows
  options.n_layers = 2;
  options.n_heads = 4;
  options.n_kv_heads = 2;
  options.max_sequence_length = 64;
  options.init_std = 0.2;           // large enough for gradients well above rounding
  return options;
}

// A model, its method and optimizer, from the text of a recipe's block `method`.
struct TinyRun {
  ConfigNode config, optimizer_config;
  MethodRegistry methods{"method"};
  OptimizerRegistry optimizers{"optimizer"};
  std::unique_ptr<RuleFactory> rules;
  std::unique_ptr<Method> method;
  std::unique_ptr<Llama> model;
  std::unique_ptr<GradBuffer> grads;
  std::unique_ptr<Optimizer> optimizer;

  TinyRun(const std::string& name, const std::string& yaml, const ModelOptions& options = tiny_options(),
          ComputeOptions compute = {}, std::int64_t total_steps = 1000, const std::string& optimizer_yaml = "")
      : config(ConfigNode::parse_text(yaml.empty() ? "{}" : yaml, "test")),
        optimizer_config(ConfigNode::parse_text(optimizer_yaml.empty() ? "{}" : optimizer_yaml, "test")) {
    lowrank::register_builtin_methods(methods);
    register_builtin_optimizers(optimizers);
    const auto optimizer_options = OptimizerOptions::parse(optimizer_config);
    rules = optimizers.make(optimizer_options.name, optimizer_config);
    optimizer_config.finish();
    method = methods.make(name, MethodContext{config, *rules, options, compute.param_dtype, compute.device, compute.seed, total_steps});
    method->validate(options);
    model = std::make_unique<Llama>(options, compute, *method);
    grads = std::make_unique<GradBuffer>(model->parameters());
    optimizer = std::make_unique<Optimizer>(optimizer_options, model->parameters(), *method);
  }

  // One probe step on these batches, as a trainer takes it.
  MethodReport probe(std::int64_t step, const at::Tensor& tokens, const at::Tensor& targets, dist::Communicator& comm) {
    const StepPlan plan = method->begin_step(step);
    for (int pass = 0; pass < plan.probe_passes; ++pass) {
      method->begin_pass(pass);
      model->forward_backward(tokens, targets, 1.0 / static_cast<double>(tokens.numel()), BackwardMode::probe);
      method->end_pass(pass, comm);
    }
    MethodReport report;
    method->end_probe(step, *optimizer, comm, report);
    return report;
  }

  std::map<std::string, Parameter*> parameters() {
    std::map<std::string, Parameter*> result;
    for (Parameter* p : model->parameters()) result[p->name] = p;
    return result;
  }
};

inline at::Tensor random_tokens(std::int64_t batch, std::int64_t length, std::int64_t vocab, std::uint64_t seed) {
  at::Tensor tokens = at::empty({batch, length}, at::kLong);
  auto* data = tokens.data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < tokens.numel(); ++i) {
    data[i] = static_cast<std::int64_t>(mix64(seed * 1000003 + static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(vocab));
  }
  return tokens;
}

}  // namespace kumiko::test
