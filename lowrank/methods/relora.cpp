// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/relora.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/core/log.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::lowrank {
namespace {

// A restart that leaves no step at the full learning rate is not due.
MergeSchedule trainable(const MergeSchedule& schedule, std::int64_t warmup_steps, std::int64_t total_steps) {
  std::vector<std::int64_t> steps = schedule.steps();
  while (!steps.empty() && steps.back() > 0 && total_steps - steps.back() <= warmup_steps) steps.pop_back();
  return MergeSchedule::at_steps(std::move(steps), total_steps, ScheduleEnd::open);
}

// The fewest steps from one restart to the next.
std::int64_t shortest_gap(const MergeSchedule& schedule, std::int64_t total_steps) {
  std::int64_t shortest = total_steps;
  const auto& steps = schedule.steps();
  for (std::size_t i = 2; i < steps.size(); ++i) shortest = std::min(shortest, steps[i] - steps[i - 1]);
  return shortest;
}

// Zeroes the elements up to the quantile `pruned` of the magnitudes, where quantiles between two elements are interpolated.
at::Tensor prune_small(const at::Tensor& moment, double pruned) {
  if (pruned == 0.0) return moment;
  const at::Tensor magnitude = moment.abs();
  const auto count = static_cast<std::int64_t>(std::floor(pruned * static_cast<double>(moment.numel() - 1))) + 1;
  const at::Tensor threshold = std::get<0>(magnitude.flatten().kthvalue(count));
  return at::where(magnitude > threshold, moment, at::zeros_like(moment));
}

at::Tensor prune_random(const at::Tensor& moment, double pruned, std::uint64_t seed) {
  at::Tensor draws = at::empty(moment.sizes(), at::kFloat);
  fill_uniform(draws, 1.0, seed);
  return at::where(draws > 2.0 * pruned - 1.0, moment, at::zeros_like(moment));
}

}  // namespace

ReloraOptions ReloraOptions::parse(const ConfigNode& node, std::int64_t hidden_size, std::int64_t total_steps) {
  constexpr std::array<std::pair<std::string_view, RestartMoments>, 3> kKinds = {
      {{"reset", RestartMoments::reset}, {"magnitude", RestartMoments::magnitude}, {"random", RestartMoments::random}}};
  const auto lora = LoraOptions::parse(node, {.weights = "none", .has_basis = false}, hidden_size);
  const auto schedule =
      MergeSchedule::parse(node.child("schedule"), total_steps, {.kind = ScheduleKind::fixed, .tau = 5000, .end = ScheduleEnd::open});
  ReloraOptions options{lora, schedule};
  options.restart_warmup_steps = node.integer("restart_warmup_steps", options.restart_warmup_steps, {0, 1 << 30});
  options.schedule = trainable(schedule, options.restart_warmup_steps, total_steps);
  const std::int64_t gap = shortest_gap(options.schedule, total_steps);
  if (options.schedule.steps().size() > 2 && options.restart_warmup_steps >= gap) {
    node.fail("restart_warmup_steps", concat("found ", options.restart_warmup_steps, ", needed fewer than the ", gap,
                                             " steps from a restart to the next, or the learning rate never rises to its full height"));
  }
  if (options.schedule.steps().size() < 2) {
    log::warning(concat("method.schedule: no restart that ", options.restart_warmup_steps, " steps of warm-up and more could follow falls within the ",
                        total_steps, " steps of the run, which makes it LoRA"));
  }
  const ConfigNode moments = node.child("moments");
  options.moments = moments.choice("kind", options.moments, kKinds);
  if (options.moments != RestartMoments::reset) {
    options.pruned = moments.real("pruned", options.pruned, {0.0, 1.0});
  } else if (moments.has("pruned")) {
    moments.fail("pruned", "has no effect with kind 'reset'; remove it");
  }
  return options;
}

ReloraMethod::ReloraMethod(const MethodContext& context)
    : ReloraMethod(context, ReloraOptions::parse(context.options, context.model.hidden_size, context.total_steps)) {}

ReloraMethod::ReloraMethod(const MethodContext& context, ReloraOptions options)
    : LoraMethod(context, "relora", options.lora), relora_(std::move(options)) {}

void ReloraMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  LoraMethod::plan(model, plan);
  plan.scratch *= 4;   // the weight before and after, stored, and the update
}

double ReloraMethod::lr_scale(std::int64_t step) const {
  std::int64_t last = 0;
  for (const std::int64_t restart : relora_.schedule.steps()) {
    if (restart <= step) last = restart;
  }
  if (last == 0 || step - last >= relora_.restart_warmup_steps) return 1.0;
  return static_cast<double>(step - last) / static_cast<double>(relora_.restart_warmup_steps);
}

void ReloraMethod::restart_moments(const Parameter& factor, Optimizer& optimizer) const {
  if (relora_.moments == RestartMoments::reset) {
    optimizer.forget(factor.name);
    return;
  }
  optimizer.transform(factor.name, [&](const at::Tensor& moment, int power) {
    if (relora_.moments == RestartMoments::magnitude) return prune_small(moment, relora_.pruned);
    return prune_random(moment, relora_.pruned, stream_seed(seed_, concat("prune/", factor.name, "/", power, "/", restarts_)));
  });
}

// `loss`: weight error, whether there is a retained update, and this; left alone where another rank tells it.
void ReloraMethod::restart_layer(LoraLinear& layer, int owner, dist::Communicator& comm, double* loss) {
  if (comm.rank() == owner) {
    const auto seed = stream_seed(seed_, concat("round/", layer.spec().name, "/", restarts_));
    const auto lost = layer.fold(relora_.lora.storage.rounding == Rounding::stochastic ? std::optional(seed) : std::nullopt);
    if (lost) {
      loss[0] = lost->weight_error;
      loss[1] = lost->retained_update ? 1.0 : 0.0;
      loss[2] = lost->retained_update.value_or(0.0);
    }
  } else {
    layer.prepare_to_receive();
  }
  // Sums of products may differ between machines in the last bit.
  if (comm.size() > 1) {
    for (const auto& tensor : layer.weight().storage()) comm.broadcast(tensor, owner)->wait();
  }
  layer.draw_factors(factor_seed(layer.spec(), restarts_));
}

void ReloraMethod::end_step(std::int64_t step, Optimizer& optimizer, dist::Communicator& comm, MethodReport& report) {
  if (layers_.empty() || !relora_.schedule.due(step + 1)) return;
  ++restarts_;
  const auto count = static_cast<std::int64_t>(layers_.size());
  at::Tensor losses = at::zeros({count, 3}, at::kDouble);
  for (std::int64_t i = 0; i < count; ++i) {
    LoraLinear& layer = *layers_[static_cast<std::size_t>(i)];
    restart_layer(layer, static_cast<int>(i % comm.size()), comm, losses[i].data_ptr<double>());
    for (Parameter* factor : layer.parameters()) restart_moments(*factor, optimizer);
  }
  if (comm.size() > 1) comm.all_reduce(losses, dist::ReduceOp::sum)->wait();
  report.merged = true;
  const bool lossless = !relora_.lora.storage.quantized() && param_dtype_ == at::kFloat;
  for (std::int64_t i = 0; i < count; ++i) {
    LayerReport entry;
    entry.name = layers_[static_cast<std::size_t>(i)]->spec().name;
    if (!lossless) {
      entry.weight_error = losses[i][0].item<double>();
      if (losses[i][1].item<double>() > 0.0) entry.retained_update = losses[i][2].item<double>();
      report.weight_error += *entry.weight_error / static_cast<double>(count);
    }
    report.layers.push_back(std::move(entry));
  }
}

void ReloraMethod::save(StateWriter& out) const { out.integer("restarts", restarts_); }

void ReloraMethod::load(const StateReader& in) { restarts_ = in.integer("restarts"); }

}  // namespace kumiko::lowrank
