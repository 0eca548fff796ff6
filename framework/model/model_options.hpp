// SPDX-License-Identifier: Apache-2.0
// Sizes of a LLaMA: presets of the GaLore and LoQT papers (reference: their configs/llama_*.json) or explicit ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "framework/model/linear.hpp"

namespace kumiko {

class ConfigNode;

struct ModelOptions {
  std::string preset;                 // "llama-60m", or "" for explicit sizes
  std::int64_t vocab_size = 0;        // 0: that of the data
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t n_layers = 0;
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;
  std::int64_t max_sequence_length = 1024;
  double rope_theta = 10000.0;
  double norm_eps = 1e-6;
  double init_std = 0.02;
  bool tie_embeddings = false;

  static ModelOptions parse(const ConfigNode& node);          // the recipe's block `model`
  static ModelOptions from_preset(const std::string& name);   // "60m" or "llama-60m"; UsageError lists the known ones

  std::int64_t head_dim() const { return hidden_size / n_heads; }
  std::vector<LinearSpec> linear_specs() const;               // in forward order, 7 a layer
  std::int64_t linear_parameters() const;
  std::int64_t total_parameters() const;                      // embedding, head, norms and matrices
  // Multiply-adds times 2 of forward and backward for one token of a sequence: 6 per parameter in products, plus attention.
  double train_flops_per_token(std::int64_t sequence_length) const;
};

std::vector<std::string> model_preset_names();

}  // namespace kumiko
