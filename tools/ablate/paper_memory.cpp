// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/paper_memory.hpp"

#include <cmath>
#include <string>

#include <c10/core/ScalarType.h>

#include "framework/core/config_tree.hpp"
#include "framework/core/format.hpp"
#include "quant/quantized_tensor.hpp"
#include "tools/ablate/merge.hpp"

namespace kumiko::tools {
namespace {

constexpr double kPaperDense = 2.0;  // bytes of a bf16 number

std::string text_at(const ConfigTree& tree, std::string_view key, const std::string& fallback) {
  const ConfigTree* value = find_value(tree, key);
  return value == nullptr ? fallback : value->scalar;
}

quant::QuantFormat format_at(const ConfigTree& recipe, std::string_view key) {
  const std::int64_t block =
      parse_integer(text_at(recipe, "method.quantization.block_size", "64")).value_or(64);
  return {quant::parse_codec(text_at(recipe, key, "none")), block,
          text_at(recipe, "method.quantization.double_quant", "false") == "true"};
}

double paper_bytes_each(const quant::QuantFormat& format) {
  if (format.codec == quant::CodecKind::none) return kPaperDense;
  return static_cast<double>(quant::codec_of(format.codec).bits) / 8.0 +
         4.0 / static_cast<double>(format.block_size);
}

// As the plan counts them, on average.
double planned_bytes_each(const quant::QuantFormat& format) {
  constexpr std::int64_t kMany = std::int64_t{1} << 24;
  return static_cast<double>(quant::QuantizedTensor::nbytes_for(kMany, format, at::kFloat)) /
         static_cast<double>(kMany);
}

std::int64_t targeted_elements(const ModelOptions& model, const ConfigTree& recipe) {
  const ConfigTree* targets = find_value(recipe, "method.targets");
  const auto has = [&](std::string_view word) {
    if (targets == nullptr) return true;
    if (targets->kind == ConfigTree::Kind::scalar) return targets->scalar == word;
    for (const ConfigTree& item : targets->items) {
      if (item.scalar == word) return true;
    }
    return false;
  };
  std::int64_t elements = 0;
  for (const auto& spec : model.linear_specs()) {
    if (has(spec.kind == LinearKind::attention ? "attention" : "mlp"))
      elements += spec.in_features * spec.out_features;
  }
  return elements;
}

}  // namespace

std::int64_t paper_bytes(const Recipe& recipe, const MemoryPlan& plan) {
  const ConfigTree tree = parse_config_tree(recipe.node.to_yaml(), "recipe");
  const quant::QuantFormat weights = format_at(tree, "method.quantization.weights");
  const quant::QuantFormat basis = format_at(tree, "method.quantization.basis");
  const double param_bytes = static_cast<double>(c10::elementSize(recipe.train.param_dtype));

  double coded = 0.0;
  double codes = 0.0;
  if (weights.codec != quant::CodecKind::none) {
    coded = static_cast<double>(targeted_elements(recipe.model, tree));
    codes = coded * static_cast<double>(quant::codec_of(weights.codec).bits) / 8.0;
  }
  const double dense = (static_cast<double>(plan.weights) - codes) / param_bytes;
  double bytes = dense * kPaperDense + coded * paper_bytes_each(weights);
  bytes += static_cast<double>(plan.basis) / planned_bytes_each(basis) * paper_bytes_each(basis);
  const double factor_bytes = text_at(tree, "method.factor", "fp32") == "bf16" ? 2.0 : 4.0;
  bytes += static_cast<double>(plan.factor) / factor_bytes * kPaperDense;
  const bool is_fp32 =
      text_at(tree, "optimizer.state", "fp32") == "fp32" && recipe.optimizer.name != "adam8bit";
  bytes += static_cast<double>(plan.moments) * (is_fp32 ? kPaperDense / 4.0 : 1.0);
  return std::llround(bytes);
}

}  // namespace kumiko::tools
