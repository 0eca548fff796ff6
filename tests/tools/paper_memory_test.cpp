// SPDX-License-Identifier: Apache-2.0
// Table 1 of LoQT (arXiv 2405.16528v1) prints memory estimates in GiB; GaLore's Table 2 (arXiv 2403.03507)
// the same for full rank.
#include "tools/ablate/paper_memory.hpp"

#include <algorithm>

#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "framework/train/memory_plan.hpp"
#include "tools/assemble.hpp"

namespace kumiko::tools {
namespace {

double estimate_gib(const std::string& size, const std::string& method, const std::string& more = "") {
  const std::string text = "model: {preset: llama-" + size +
                           ", vocab_size: 32000}\ndata: {train: none.h5}\nmethod: " + method + "\n" + more;
  const Assembly assembly(Recipe::parse(ConfigNode::parse_text(text, "recipe")), 32000, 2);
  const Recipe& recipe = assembly.recipe;
  return static_cast<double>(
             paper_bytes(recipe, plan_memory(recipe.model, *assembly.method, recipe.train, 1, 256))) /
         (1 << 30);
}

TEST(PaperMemory, IsThatOfTheTables) {
  EXPECT_NEAR(estimate_gib("60m", "{name: full}") * (1 << 30), 6.0 * 58'073'600,
              1e3);  // 2 and two moments of 2; printed: 0.36
  EXPECT_NEAR(estimate_gib("130m", "{name: full}"), 0.76, 0.015);
  EXPECT_NEAR(estimate_gib("350m", "{name: full}"), 2.06, 0.01);
  EXPECT_NEAR(estimate_gib("60m", "{name: loqt, rank: 128}"), 0.23, 0.01);
  EXPECT_NEAR(estimate_gib("130m", "{name: loqt, rank: 256}"), 0.49, 0.01);
  EXPECT_NEAR(estimate_gib("350m", "{name: loqt, rank: 256}"), 0.98, 0.01);
  EXPECT_NEAR(estimate_gib("1b", "{name: loqt, rank: 512}"), 3.16, 0.02);
  EXPECT_NEAR(estimate_gib("60m", "{name: loqt_nq, rank: 128}"), 0.28, 0.02);
  EXPECT_NEAR(estimate_gib("130m", "{name: loqt_nq, rank: 256}"), 0.63, 0.02);
}

// Elements of a layer of m <= n: GaLore keeps W, a basis m r and two moments n r; LoRA W, and factors m r and
// n r with two moments each; W = B A the factors alone (Table 3 of LoQT; what GaLore's table prints for these
// three is up to 9 % off its own formulas).
TEST(PaperMemory, CountsTheElementsThatEachMethodHas) {
  const ModelOptions model = ModelOptions::from_preset("llama-130m");
  const double r = 256;
  double outside = 2.0 * 32000 * static_cast<double>(model.hidden_size) +
                   static_cast<double>((2 * model.n_layers + 1) * model.hidden_size);
  double galore = 6 * outside, lora = 6 * outside, low_rank = 6 * outside;
  for (const auto& spec : model.linear_specs()) {
    const auto m = static_cast<double>(std::min(spec.in_features, spec.out_features));
    const auto n = static_cast<double>(std::max(spec.in_features, spec.out_features));
    galore += 2 * m * n + 2 * m * r + 4 * n * r;
    lora += 2 * m * n + 6 * (m + n) * r;
    low_rank += 6 * (m + n) * r;
  }
  const double gib = 1 << 30;
  EXPECT_NEAR(estimate_gib("130m", "{name: galore, rank: 256}"), galore / gib, 1e-5);
  EXPECT_NEAR(estimate_gib("130m", "{name: lora, rank: 256}"), lora / gib, 1e-5);
  EXPECT_NEAR(estimate_gib("130m", "{name: low_rank, rank: 256}"), low_rank / gib, 1e-5);
}

TEST(PaperMemory, DoesNotDependOnOwnPrecision) {
  const double own = estimate_gib("60m", "{name: loqt, rank: 128}");
  EXPECT_NEAR(estimate_gib("60m", "{name: loqt, rank: 128}", "train: {param_dtype: bf16}\n"), own, 1e-6);
  EXPECT_NEAR(estimate_gib("60m", "{name: loqt, rank: 128, factor: bf16}"), own, 1e-6);
  EXPECT_NEAR(estimate_gib("60m", "{name: loqt, rank: 128, quantization: {double_quant: false}}"), own, 1e-3);
  EXPECT_NEAR(estimate_gib("60m", "{name: loqt, rank: 128}", "optimizer: {state: bf16}\n"), own, 1e-6);
  EXPECT_LT(estimate_gib("60m", "{name: loqt, rank: 128, targets: attention}"),
            estimate_gib("60m", "{name: full}"));
  EXPECT_GT(estimate_gib("60m", "{name: loqt, rank: 128, targets: attention}"), own);
}

// 2 bytes and two states of 1 byte with one fp32 scale in 256 (bitsandbytes).
TEST(PaperMemory, CountsEightBitStatesAsTheyAre) {
  const double full = estimate_gib("130m", "{name: full}");
  EXPECT_NEAR(estimate_gib("130m", "{name: full}", "optimizer: {name: adam8bit}\n") / full,
              (2 + 2 * (1 + 4.0 / 256)) / 6, 2e-3);
}

}  // namespace
}  // namespace kumiko::tools
