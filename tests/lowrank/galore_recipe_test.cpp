// SPDX-License-Identifier: Apache-2.0
// What a recipe may say of GaLore and Q-GaLore, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lowrank/methods/galore.hpp"
#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/support/tiny_model.hpp"

namespace kumiko::lowrank {
namespace {

using kumiko::test::TinyRun;
using ::testing::HasSubstr;

GaloreOptions parsed(const std::string& yaml, GaloreKind kind = GaloreKind::plain) {
  const auto node = ConfigNode::parse_text(yaml, "r.yaml");
  auto options = GaloreOptions::parse(node, kind, 512, 1000);
  node.finish();
  return options;
}

TEST(GaloreRecipe, HasTheDefaultsOfThePapers) {
  const GaloreOptions plain = parsed("{}");
  EXPECT_EQ(plain.rank, 128);  // a quarter of the hidden size
  EXPECT_EQ(plain.scale, 0.25);
  EXPECT_TRUE(plain.targets.attention && plain.targets.mlp);
  EXPECT_FALSE(plain.storage.quantized());
  EXPECT_EQ(plain.storage.basis.codec, quant::CodecKind::none);
  EXPECT_EQ(plain.schedule.steps(), (std::vector<std::int64_t>{0, 200, 400, 600, 800}));
  EXPECT_EQ(plain.refresh.kind, RefreshKind::all);
  EXPECT_EQ(plain.moments, Moments::keep);

  const GaloreOptions quantized = parsed("{}", GaloreKind::quantized);
  EXPECT_EQ(quantized.storage.weights, (quant::QuantFormat{quant::CodecKind::int8, 256, false}));
  EXPECT_EQ(quantized.storage.basis, (quant::QuantFormat{quant::CodecKind::int4, 256, false}));
  EXPECT_EQ(quantized.storage.rounding, Rounding::stochastic);
  EXPECT_EQ(quantized.refresh.kind, RefreshKind::lazy);
  EXPECT_EQ(quantized.schedule.steps(), plain.schedule.steps());
}

TEST(GaloreRecipe, ReadsEveryKey) {
  const GaloreOptions options = parsed(
      "{rank: 16, scale: 2, targets: mlp, quantization: {weights: nf4, basis: int8, block_size: 128, "
      "double_quant: true, "
      "rounding: stochastic}, basis: {solver: svd}, schedule: {kind: linear, tau: 400, increment: 100}, "
      "refresh: {kind: lazy, similarity: 0.6, window: 3, growth: 4}, moments: rotate}");
  EXPECT_EQ(options.rank, 16);
  EXPECT_EQ(options.scale, 2.0);
  EXPECT_FALSE(options.targets.attention);
  EXPECT_EQ(options.storage.weights, (quant::QuantFormat{quant::CodecKind::nf4, 128, true}));
  EXPECT_EQ(options.storage.basis, (quant::QuantFormat{quant::CodecKind::int8, 128, true}));
  EXPECT_EQ(options.storage.rounding, Rounding::stochastic);
  EXPECT_EQ(options.basis.solver, BasisSolver::svd);
  EXPECT_EQ(options.schedule.steps(), (std::vector<std::int64_t>{0, 400, 900}));
  EXPECT_EQ(options.refresh.kind, RefreshKind::lazy);
  EXPECT_EQ(options.refresh.similarity, 0.6);
  EXPECT_EQ(options.refresh.window, 3);
  EXPECT_EQ(options.refresh.growth, 4);
  EXPECT_EQ(options.moments, Moments::rotate);
}

struct Bad {
  const char* name;
  const char* yaml;
  std::vector<std::string> says;
};

class BadGaloreRecipe : public ::testing::TestWithParam<Bad> {};

TEST_P(BadGaloreRecipe, IsRefusedWithItsPlaceAndTheFix) {
  for (const GaloreKind kind : {GaloreKind::plain, GaloreKind::quantized}) {
    const std::string message = test::message_of<UsageError>([&] { parsed(GetParam().yaml, kind); });
    EXPECT_THAT(message, HasSubstr("r.yaml:1"));
    for (const auto& part : GetParam().says) EXPECT_THAT(message, HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Keys, BadGaloreRecipe,
    ::testing::Values(Bad{"unknown_key", "{sclae: 8}", {"sclae", "scale"}},
                      Bad{"rank", "{rank: 0}", {"rank", "0"}}, Bad{"scale", "{scale: 0}", {"scale"}},
                      Bad{"target", "{targets: norms}", {"targets", "norms"}},
                      Bad{"codec", "{quantization: {weights: int5}}", {"quantization.weights", "int5"}},
                      Bad{"basis_codec", "{quantization: {basis: svd}}", {"quantization.basis", "svd"}},
                      Bad{"block", "{quantization: {block_size: 100}}", {"block size 100"}},
                      Bad{"rounding", "{quantization: {rounding: up}}", {"rounding", "up", "stochastic"}},
                      Bad{"solver", "{basis: {solver: qr}}", {"basis.solver", "qr"}},
                      Bad{"schedule", "{schedule: {kind: weekly}}", {"schedule.kind", "static"}},
                      Bad{"tau", "{schedule: {tau: 0}}", {"schedule.tau", "0"}},
                      Bad{"refresh", "{refresh: {kind: never}}", {"refresh.kind", "never", "lazy"}},
                      Bad{"window", "{refresh: {kind: lazy, window: 0}}", {"refresh.window", "0"}},
                      Bad{"lazy_random",
                          "{refresh: {kind: lazy}, basis: {solver: random}}",
                          {"refresh.kind", "basis.solver is random", "all"}},
                      Bad{"compensation", "{compensation_iterations: 3}", {"compensation_iterations"}},
                      Bad{"moments", "{moments: forget}", {"moments", "forget", "rotate"}}),
    [](const auto& info) { return info.param.name; });

TEST(GaloreRecipe, RefusesARankLargerThanATargetedLayer) {
  EXPECT_EQ(test::message_of<UsageError>([] { TinyRun("galore", "{rank: 17}"); }),
            "method.rank 17 is larger than layer model.layers.0.self_attn.k_proj [16, 32]; use at most 16");
}

}  // namespace
}  // namespace kumiko::lowrank
