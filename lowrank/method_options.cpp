// SPDX-License-Identifier: Apache-2.0
#include "lowrank/method_options.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko::lowrank {
namespace {

quant::QuantFormat parse_format(const ConfigNode& node, std::string_view key, std::string_view fallback, std::int64_t block_size,
                                bool double_quant) {
  quant::QuantFormat format{quant::CodecKind::none, block_size, double_quant};
  const std::string word = node.text(key, std::string(fallback));
  try {
    format.codec = quant::parse_codec(word);
    quant::validate(format);
  } catch (const UsageError& error) {
    node.fail(key, error.what());
  }
  return format;
}

}  // namespace

Targets Targets::parse(const ConfigNode& node) {
  Targets targets{false, false};
  for (const auto& target : node.texts("targets", {"attention", "mlp"})) {
    if (target == "attention") {
      targets.attention = true;
    } else if (target == "mlp") {
      targets.mlp = true;
    } else {
      node.fail("targets", concat("unknown target '", target, "'; known: attention, mlp"));
    }
  }
  if (!targets.attention && !targets.mlp) node.fail("targets", "is empty; needed attention, mlp or both");
  return targets;
}

StorageOptions StorageOptions::parse(const ConfigNode& node, const Defaults& defaults) {
  constexpr std::array<std::pair<std::string_view, Rounding>, 2> kRoundings = {
      {{"nearest", Rounding::nearest}, {"stochastic", Rounding::stochastic}}};
  const ConfigNode block = node.child("quantization");
  const std::int64_t block_size = block.integer("block_size", defaults.block_size, {32, 4096});
  const bool double_quant = block.boolean("double_quant", defaults.double_quant);
  StorageOptions options;
  options.weights = parse_format(block, "weights", defaults.weights, block_size, double_quant);
  options.basis = defaults.has_basis ? parse_format(block, "basis", defaults.basis, block_size, double_quant)
                                     : quant::QuantFormat{quant::CodecKind::none, block_size, double_quant};
  options.rounding = defaults.requantizes ? block.choice("rounding", defaults.rounding, kRoundings) : defaults.rounding;
  return options;
}

std::int64_t parse_rank(const ConfigNode& node, std::int64_t hidden_size) {
  const std::int64_t rank = node.integer_or_auto("rank", {1, 1 << 20}).value_or(std::max<std::int64_t>(1, hidden_size / 4));
  node.resolve("rank", concat(rank));
  return rank;
}

at::ScalarType parse_factor_dtype(const ConfigNode& node) {
  constexpr std::array<std::pair<std::string_view, at::ScalarType>, 2> kDtypes = {{{"fp32", at::kFloat}, {"bf16", at::kBFloat16}}};
  return node.choice("factor", at::kFloat, kDtypes);
}

void check_rank(std::int64_t rank, const Targets& targets, const std::vector<LinearSpec>& specs, std::string_view key) {
  for (const auto& spec : specs) {
    const std::int64_t most = std::min(spec.in_features, spec.out_features);
    KUMIKO_EXPECTS(!targets.has(spec) || rank <= most, UsageError, key, " ", rank, " is larger than layer ", spec.name, " [",
                   spec.out_features, ", ", spec.in_features, "]; use at most ", most);
  }
}

}  // namespace kumiko::lowrank
