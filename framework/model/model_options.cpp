// SPDX-License-Identifier: Apache-2.0
#include "framework/model/model_options.hpp"

#include <array>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko {
namespace {

struct Preset {
  const char* name;
  std::int64_t hidden, intermediate, layers, heads, positions;
};

constexpr std::array<Preset, 14> kPresets = {{
    {"9m", 128, 352, 4, 4, 1024},
    {"20m", 256, 688, 4, 4, 1024},
    {"35m", 384, 1024, 6, 8, 1024},
    {"40m", 416, 1024, 8, 8, 1024},
    {"60m", 512, 1376, 8, 8, 1024},
    {"71m", 512, 1368, 12, 8, 1024},
    {"100m", 640, 1708, 12, 10, 1024},
    {"130m", 768, 2048, 12, 12, 1024},
    {"250m", 768, 2560, 24, 16, 1024},
    {"350m", 1024, 2736, 24, 16, 1024},
    {"1b", 2048, 5461, 24, 32, 1024},
    {"3b", 2560, 6848, 32, 32, 1024},
    {"7b", 4096, 11008, 32, 32, 2048},
    {"13b", 5120, 13824, 40, 40, 2048},
}};

constexpr IntRange kSize{1, 1 << 24};

}  // namespace

std::vector<std::string> model_preset_names() {
  std::vector<std::string> names;
  for (const auto& preset : kPresets) names.push_back(concat("llama-", preset.name));
  return names;
}

ModelOptions ModelOptions::from_preset(const std::string& name) {
  const std::string size = name.starts_with("llama-") ? name.substr(6) : name;
  for (const auto& preset : kPresets) {
    if (size != preset.name) continue;
    ModelOptions options;
    options.preset = concat("llama-", preset.name);
    options.hidden_size = preset.hidden;
    options.intermediate_size = preset.intermediate;
    options.n_layers = preset.layers;
    options.n_heads = preset.heads;
    options.n_kv_heads = preset.heads;
    options.max_sequence_length = preset.positions;
    return options;
  }
  std::string known;
  for (const auto& preset : model_preset_names()) known += (known.empty() ? "" : ", ") + preset;
  throw UsageError(concat("unknown model preset '", name, "'; known: ", known));
}

ModelOptions ModelOptions::parse(const ConfigNode& node) {
  ModelOptions options;
  const std::string preset = node.text("preset", "");
  if (!preset.empty()) {
    try {
      options = from_preset(preset);
    } catch (const UsageError& error) {
      node.fail("preset", error.what());
    }
    options.hidden_size = node.integer("hidden_size", options.hidden_size, kSize);
    options.intermediate_size = node.integer("intermediate_size", options.intermediate_size, kSize);
    options.n_layers = node.integer("n_layers", options.n_layers, {1, 4096});
    options.n_heads = node.integer("n_heads", options.n_heads, {1, 4096});
  } else {
    options.hidden_size = node.integer("hidden_size", kSize);
    options.intermediate_size = node.integer("intermediate_size", kSize);
    options.n_layers = node.integer("n_layers", {1, 4096});
    options.n_heads = node.integer("n_heads", {1, 4096});
  }
  options.n_kv_heads = node.integer("n_kv_heads", options.n_heads, {1, 4096});
  options.vocab_size = node.integer_or_auto("vocab_size", {2, 1 << 24}).value_or(0);
  options.max_sequence_length = node.integer("max_sequence_length", options.max_sequence_length, {1, 1 << 20});
  options.tie_embeddings = node.boolean("tie_embeddings", false);
  options.rope_theta = node.real("rope_theta", options.rope_theta, {1.0, 1e9});
  options.norm_eps = node.real("norm_eps", options.norm_eps, {1e-12, 1e-2});
  options.init_std = node.real("init_std", options.init_std, {1e-6, 1.0});
  if (options.hidden_size % options.n_heads != 0 || options.head_dim() % 2 != 0) {
    node.fail("n_heads", concat("hidden_size ", options.hidden_size, " over ", options.n_heads,
                                " heads must give an even whole head size"));
  }
  if (options.n_heads % options.n_kv_heads != 0) {
    node.fail("n_kv_heads", concat(options.n_kv_heads, " does not divide n_heads ", options.n_heads));
  }
  return options;
}

std::vector<LinearSpec> ModelOptions::linear_specs() const {
  std::vector<LinearSpec> specs;
  const std::int64_t kv = n_kv_heads * head_dim();
  for (std::int64_t layer = 0; layer < n_layers; ++layer) {
    const std::string attention = concat("model.layers.", layer, ".self_attn.");
    const std::string mlp = concat("model.layers.", layer, ".mlp.");
    specs.push_back({attention + "q_proj", LinearKind::attention, hidden_size, hidden_size});
    specs.push_back({attention + "k_proj", LinearKind::attention, hidden_size, kv});
    specs.push_back({attention + "v_proj", LinearKind::attention, hidden_size, kv});
    specs.push_back({attention + "o_proj", LinearKind::attention, hidden_size, hidden_size});
    specs.push_back({mlp + "gate_proj", LinearKind::mlp, hidden_size, intermediate_size});
    specs.push_back({mlp + "up_proj", LinearKind::mlp, hidden_size, intermediate_size});
    specs.push_back({mlp + "down_proj", LinearKind::mlp, intermediate_size, hidden_size});
  }
  return specs;
}

std::int64_t ModelOptions::linear_parameters() const {
  std::int64_t count = 0;
  for (const auto& spec : linear_specs()) count += spec.in_features * spec.out_features;
  return count;
}

std::int64_t ModelOptions::total_parameters() const {
  const std::int64_t tables = vocab_size * hidden_size * (tie_embeddings ? 1 : 2);
  return linear_parameters() + tables + (2 * n_layers + 1) * hidden_size;
}

double ModelOptions::train_flops_per_token(std::int64_t sequence_length) const {
  const auto products = static_cast<double>(linear_parameters() + vocab_size * hidden_size);
  // Causal attention: QK^T and AV over on average T/2 keys, forward once and backward twice.
  const double attention = 6.0 * static_cast<double>(n_layers) * static_cast<double>(sequence_length) * static_cast<double>(hidden_size);
  return 6.0 * products + attention;
}

}  // namespace kumiko
