// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/low_rank.hpp"

#include <algorithm>
#include <array>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::lowrank {

LowRankOptions LowRankOptions::parse(const ConfigNode& node, std::int64_t hidden_size) {
  constexpr std::array<std::pair<std::string_view, LowRankInit>, 2> kInits = {
      {{"kaiming", LowRankInit::kaiming}, {"spectral", LowRankInit::spectral}}};
  LowRankOptions options;
  options.rank = parse_rank(node, hidden_size);
  options.targets = Targets::parse(node);
  options.init = node.choice("init", options.init, kInits);
  options.factor_dtype = parse_factor_dtype(node);
  return options;
}

std::unique_ptr<Linear> LowRankMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  if (!options_.targets.has(spec)) return make_dense(spec, initial);
  auto linear = std::make_unique<LowRankLinear>(spec, options_.rank, options_.factor_dtype, device_);
  switch (options_.init) {
    case LowRankInit::kaiming:
      linear->draw(stream_seed(seed_, concat("lora_A/", spec.name, "/0")), stream_seed(seed_, concat("lora_B/", spec.name, "/0")));
      break;
    case LowRankInit::spectral: linear->approximate(initial); break;
  }
  layers_.push_back(linear.get());
  return linear;
}

void LowRankMethod::validate(const ModelOptions& model) const { check_rank(options_.rank, options_.targets, model.linear_specs()); }

void LowRankMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  for (const auto& spec : model.linear_specs()) {
    if (!options_.targets.has(spec)) {
      plan_dense(spec, plan);
      continue;
    }
    plan_factors(spec, options_.rank, options_.factor_dtype, plan);
  }
}

void LowRankMethod::end_step(std::int64_t step, Optimizer& /*optimizer*/, dist::Communicator& comm, MethodReport& /*report*/) {
  if (step > 0 || options_.init != LowRankInit::spectral || comm.size() == 1) return;
  for (LowRankLinear* layer : layers_) {
    for (Parameter* factor : layer->parameters()) comm.broadcast(factor->value, 0)->wait();
  }
}

}  // namespace kumiko::lowrank
