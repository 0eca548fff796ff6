// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "framework/model/llama_block.hpp"

namespace kumiko {

class ConfigNode;

enum class Precision { fp32, bf16, fp16 };

// The recipe's block `train`.
struct TrainOptions {
  std::int64_t steps = 10000;
  std::int64_t global_batch_size = 512;              // sequences a step, over all ranks and micro-batches
  std::optional<std::int64_t> micro_batch_size;      // none: auto
  Precision precision = Precision::bf16;             // of activations and products
  at::ScalarType param_dtype = at::kFloat;           // stored dense parameters: fp32 or bf16
  double grad_clip = 0.0;                            // L2 norm over all gradients; 0: off
  Recompute recompute = Recompute::none;
  bool per_layer_updates = false;                    // parameters move inside the backward pass, gradients are given back at once
  std::uint64_t seed = 42;
  bool deterministic = false;
  std::string device = "auto";
  std::optional<std::int64_t> threads;               // none: cores / ranks of this machine
  std::int64_t max_non_finite_steps = 5;             // skipped steps in a row before the run stops

  static TrainOptions parse(const ConfigNode& node);
  at::ScalarType compute_dtype() const;
};

// The recipe's block `eval`.
struct EvalOptions {
  std::int64_t every = 1000;        // steps; 0: only at the end
  std::int64_t tokens = 10'000'000; // at most, of the validation shards

  static EvalOptions parse(const ConfigNode& node);
};

// The recipe's block `log`.
struct LogOptions {
  std::int64_t every = 10;          // steps
  bool tensorboard = true;

  static LogOptions parse(const ConfigNode& node);
};

}  // namespace kumiko
