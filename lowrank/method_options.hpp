// SPDX-License-Identifier: Apache-2.0
// Keys of the block `method` that several methods share.
#pragma once

#include <string_view>

#include "framework/model/linear.hpp"
#include "quant/codec.hpp"

namespace kumiko {
class ConfigNode;
}

namespace kumiko::lowrank {

// Which matrices a method represents in its way; the others stay dense and trained. Key `targets`: attention, mlp.
struct Targets {
  bool attention = true;
  bool mlp = true;

  static Targets parse(const ConfigNode& node);
  bool has(const LinearSpec& spec) const noexcept { return spec.kind == LinearKind::attention ? attention : mlp; }
};

enum class Rounding { nearest, stochastic };

// Block `quantization`: weights, basis (codec names), block_size, double_quant, rounding (of weights that are quantized again).
struct StorageOptions {
  quant::QuantFormat weights;
  quant::QuantFormat basis;
  Rounding rounding = Rounding::nearest;

  // What stands for absent keys. `has_basis`, `requantizes`: otherwise `basis`, `rounding` is no key.
  struct Defaults {
    std::string_view weights = "none";
    std::string_view basis = "none";
    std::int64_t block_size = 64;
    bool double_quant = true;
    Rounding rounding = Rounding::nearest;
    bool has_basis = true;
    bool requantizes = true;
  };
  static StorageOptions parse(const ConfigNode& node, const Defaults& defaults);

  bool quantized() const noexcept { return weights.codec != quant::CodecKind::none; }
};

// Key `rank`: a number, or auto, a quarter of the hidden size.
std::int64_t parse_rank(const ConfigNode& node, std::int64_t hidden_size);

// Key `factor`, what trained factors are stored in: fp32 (when absent) or bf16.
at::ScalarType parse_factor_dtype(const ConfigNode& node);

// UsageError where `rank`, of that key, exceeds a side of a targeted matrix.
void check_rank(std::int64_t rank, const Targets& targets, const std::vector<LinearSpec>& specs, std::string_view key = "method.rank");

}  // namespace kumiko::lowrank
