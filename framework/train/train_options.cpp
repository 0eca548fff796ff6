// SPDX-License-Identifier: Apache-2.0
#include "framework/train/train_options.hpp"

#include <array>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko {
namespace {

constexpr std::int64_t kMaxSteps = std::int64_t{1} << 40;

constexpr std::array<std::pair<std::string_view, Precision>, 3> kPrecisions = {
    {{"fp32", Precision::fp32}, {"bf16", Precision::bf16}, {"fp16", Precision::fp16}}};
constexpr std::array<std::pair<std::string_view, at::ScalarType>, 2> kParamDtypes = {{{"fp32", at::kFloat}, {"bf16", at::kBFloat16}}};
constexpr std::array<std::pair<std::string_view, Recompute>, 5> kRecompute = {{{"none", Recompute::none},
                                                                              {"norm_swiglu", Recompute::norm_swiglu},
                                                                              {"attention", Recompute::attention},
                                                                              {"mlp", Recompute::mlp},
                                                                              {"block", Recompute::block}}};

}  // namespace

TrainOptions TrainOptions::parse(const ConfigNode& node) {
  TrainOptions options;
  options.steps = node.integer("steps", options.steps, {1, kMaxSteps});
  options.global_batch_size = node.integer("global_batch_size", options.global_batch_size, {1, 1 << 24});
  options.micro_batch_size = node.integer_or_auto("micro_batch_size", {1, 1 << 20});
  options.precision = node.choice("precision", options.precision, kPrecisions);
  options.param_dtype = node.choice("param_dtype", options.param_dtype, kParamDtypes);
  options.grad_clip = node.real("grad_clip", 0.0, {0.0, 1e9});
  options.recompute = node.choice("recompute", options.recompute, kRecompute);
  options.per_layer_updates = node.boolean("per_layer_updates", false);
  if (options.per_layer_updates && options.grad_clip > 0.0) {
    node.fail("per_layer_updates", concat("cannot go with train.grad_clip ", options.grad_clip,
                                          ": the norm over all gradients is known only after the first layers have moved; set one of them to its default"));
  }
  if (options.per_layer_updates && options.precision == Precision::fp16) {
    node.fail("per_layer_updates", "cannot go with train.precision fp16: a step whose loss scale overflows could not be taken back; use bf16 or fp32");
  }
  options.seed = static_cast<std::uint64_t>(node.integer("seed", 42, {0, std::numeric_limits<std::int64_t>::max()}));
  options.deterministic = node.boolean("deterministic", false);
  constexpr std::array<std::string_view, 2> kDevices = {"auto", "cpu"};
  options.device = kDevices[node.choice_index("device", 0, kDevices)];
  options.threads = node.integer_or_auto("threads", {1, 1024});
  options.max_non_finite_steps = node.integer("max_non_finite_steps", options.max_non_finite_steps, {1, 1 << 20});
  return options;
}

at::ScalarType TrainOptions::compute_dtype() const {
  switch (precision) {
    case Precision::fp32: return at::kFloat;
    case Precision::bf16: return at::kBFloat16;
    case Precision::fp16: return at::kHalf;
  }
  return at::kFloat;
}

EvalOptions EvalOptions::parse(const ConfigNode& node) {
  EvalOptions options;
  options.every = node.integer("every", options.every, {0, kMaxSteps});
  options.tokens = node.integer("tokens", options.tokens, {1, kMaxSteps});
  return options;
}

LogOptions LogOptions::parse(const ConfigNode& node) {
  LogOptions options;
  options.every = node.integer("every", options.every, {1, kMaxSteps});
  options.tensorboard = node.boolean("tensorboard", options.tensorboard);
  return options;
}

}  // namespace kumiko
