// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "lowrank/merge_schedule.hpp"
#include "lowrank/methods/lora.hpp"

namespace kumiko::lowrank {

// What a restart leaves of the moments of both factors. reset: nothing, and their step counts begin anew. magnitude: of each
// moment the elements above its `pruned` quantile. random: each element with probability 1 - `pruned`.
enum class RestartMoments { reset, magnitude, random };

struct ReloraOptions {
  LoraOptions lora;
  MergeSchedule schedule;                       // when absent: every 5000 steps
  std::int64_t restart_warmup_steps = 50;
  RestartMoments moments = RestartMoments::magnitude;
  double pruned = 0.99;                         // share

  // Also `schedule`, `restart_warmup_steps`, `moments: {kind, pruned}`; `quantization` has `rounding`.
  static ReloraOptions parse(const ConfigNode& node, std::int64_t hidden_size, std::int64_t total_steps);
};

// ReLoRA (arXiv 2307.05695): at each restart W <- W + s B A, A is drawn anew, B is zero, most of the factors' moments go, and the
// learning rate rises from 0 again. One rank folds a layer and the others receive it. A restart of step n follows the n-th
// update, and the first step behind it runs at rate 0, as the warm-up's first.
class ReloraMethod final : public LoraMethod {
 public:
  explicit ReloraMethod(const MethodContext& context);

  void plan(const ModelOptions& model, MemoryPlan& plan) const override;
  void end_step(std::int64_t step, Optimizer& optimizer, dist::Communicator& comm, MethodReport& report) override;
  double lr_scale(std::int64_t step) const override;
  std::int64_t merges() const noexcept override { return restarts_; }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

 private:
  ReloraMethod(const MethodContext& context, ReloraOptions options);
  void restart_layer(LoraLinear& layer, int owner, dist::Communicator& comm, double* loss);
  void restart_moments(const Parameter& factor, Optimizer& optimizer) const;

  ReloraOptions relora_;
  std::int64_t restarts_ = 0;
};

}  // namespace kumiko::lowrank
