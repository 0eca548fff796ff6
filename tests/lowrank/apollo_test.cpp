// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/apollo.hpp"

#include <gmock/gmock.h>

#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/lowrank/training_checks.hpp"

namespace kumiko::lowrank {
namespace {

using kumiko::test::Rig;
using kumiko::test::TinyRun;
using test::relative;
using test::Trained;
using ::testing::HasSubstr;

constexpr Trained kApollo{"apollo", "apollo", "{rank: 8, refresh: 3}"};
constexpr Trained kMini{"apollo_mini", "apollo_mini", "{refresh: 3, scale: 4.0}"};

// Algorithm 1 of the paper for one matrix, in fp64, with Adam's moments as its equations have them.
struct Reference {
  bool mini = false;
  double scale = 1.0, eps = 1e-6;
  at::Tensor m, v;
  double last_norm = 0.0;
  int limited = 0, t = 0;

  at::Tensor direction(const at::Tensor& gradient, const at::Tensor& projection) {
    ++t;
    const at::Tensor g = gradient.to(at::kDouble), p = projection.to(at::kDouble);
    const bool rows = g.size(0) >= g.size(1);   // a channel is a row
    const at::Tensor r = rows ? at::mm(g, p) : at::mm(p.t(), g);
    m = t == 1 ? 0.1 * r : 0.9 * m + 0.1 * r;
    v = t == 1 ? 0.001 * r * r : 0.999 * v + 0.001 * r * r;
    const at::Tensor scaled = m / (v.sqrt() + eps * std::sqrt(1.0 - std::pow(0.999, t)));
    const std::vector<std::int64_t> along = mini ? std::vector<std::int64_t>{0, 1} : std::vector<std::int64_t>{rows ? 1 : 0};
    at::Tensor u = g * (scaled.square().sum(along, true).sqrt() / r.square().sum(along, true).sqrt());
    const double norm = u.norm().item<double>();
    if (last_norm > 0.0 && norm > 1.01 * last_norm) {
      u = u * (1.01 * last_norm / norm);
      ++limited;
    }
    last_norm = u.norm().item<double>();
    return scale * std::sqrt(1.0 - std::pow(0.999, t)) / (1.0 - std::pow(0.9, t)) * u;
  }
};

class ApolloTraining : public ::testing::TestWithParam<Trained> {
 protected:
  bool mini() const { return std::string(GetParam().method).find("mini") != std::string::npos; }
};

TEST_P(ApolloTraining, MovesEachMatrixAsThePaperSays) {
  auto options = test::rig_options(GetParam());
  options.optimizer_yaml = "{weight_decay: 0.1}";
  Rig rig(options);
  rig.run.config.finish();
  std::map<std::string, Reference> references;
  for (int step = 0; step < 10; ++step) {
    const auto seen = test::observe_step(rig);
    for (Linear* linear : rig.model.linears()) {
      const auto& spec = linear->spec();
      const std::string name = spec.name + ".weight";
      auto& reference = references.try_emplace(name, Reference{.mini = mini(), .scale = mini() ? 4.0 : 1.0}).first->second;
      const at::Tensor p = apollo_projection(42, name, step / 3, std::min(spec.in_features, spec.out_features), mini() ? 1 : 8);
      const at::Tensor direction = reference.direction(seen.gradient.at(name), p);
      const at::Tensor wanted = -0.1 * seen.lr * seen.before.at(name).to(at::kDouble) - seen.lr * direction;
      EXPECT_LT(relative(seen.after.at(name).to(at::kDouble) - seen.before.at(name), wanted), 2e-4) << name << ", step " << step;
    }
  }
  int limited = 0;
  for (const auto& [name, reference] : references) limited += reference.limited;
  EXPECT_GT(limited, 14);
  EXPECT_LT(limited, 9 * 14);
}

TEST_P(ApolloTraining, ResumesBitForBitAcrossARefresh) { test::expect_resumes_bit_for_bit(GetParam(), 5, 3); }

TEST_P(ApolloTraining, HoldsWhatItPlans) { test::expect_plan_is_what_is_held(GetParam()); }

TEST_P(ApolloTraining, IsTheSameOnTwoRanks) {
  test::expect_ranks_change_nothing(GetParam(), false);
  test::expect_ranks_change_nothing(GetParam(), true);
}

TEST_P(ApolloTraining, IsTheSameWithAccumulationAndUpdatesByLayer) {
  test::expect_accumulation_changes_nothing(GetParam(), false);
  test::expect_accumulation_changes_nothing(GetParam(), true);
  test::expect_updates_by_layer_change_nothing(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Kinds, ApolloTraining, ::testing::Values(kApollo, kMini), [](const auto& info) { return info.param.name; });

class QuantizedApollo : public ::testing::TestWithParam<Trained> {};

TEST_P(QuantizedApollo, TrainsResumesAndIsTheSameOnTwoRanks) {
  Rig rig(test::rig_options(GetParam()));
  for (Linear* linear : rig.model.linears()) EXPECT_GT(linear->frozen_nbytes(), 0) << linear->spec().name;
  test::expect_resumes_bit_for_bit(GetParam(), 4, 3);
  test::expect_ranks_change_nothing(GetParam(), true);
  test::expect_accumulation_changes_nothing(GetParam(), true);
}

INSTANTIATE_TEST_SUITE_P(Kinds, QuantizedApollo,
                         ::testing::Values(Trained{"q_apollo", "q_apollo", "{rank: 8, refresh: 3}", 1e-2},
                                           Trained{"q_apollo_mini", "q_apollo_mini", "{refresh: 3, scale: 4.0}", 1e-2}),
                         [](const auto& info) { return info.param.name; });

TEST(ApolloProjection, IsGaussianOfVarianceOneOverRankAndDrawnAnew) {
  const at::Tensor p = apollo_projection(1, "a.weight", 0, 400, 25);
  EXPECT_NEAR(p.mean().item<float>(), 0.0F, 4 * 0.2F / 100);
  EXPECT_NEAR(p.square().mean().item<float>() * 25, 1.0F, 4 * 1.414F / 100);
  EXPECT_TRUE(at::equal(p, apollo_projection(1, "a.weight", 0, 400, 25)));
  for (const at::Tensor& other : {apollo_projection(2, "a.weight", 0, 400, 25), apollo_projection(1, "b.weight", 0, 400, 25),
                                  apollo_projection(1, "a.weight", 1, 400, 25)}) {
    EXPECT_NEAR((p * other).mean().item<float>() * 25, 0.0F, 4.0F / 100);
  }
}

// Its parameters besides the targeted matrices move as those of `full` do.
TEST(ApolloMethod, LeavesOtherParametersToTheOptimizer) {
  kumiko::test::RigOptions options{.method = "apollo", .method_yaml = "{rank: 8, targets: attention}"};
  Rig apollo(options), full({.method = "full"});
  apollo.trainer.step();
  full.trainer.step();
  const auto got = test::dense_values(apollo), expected = test::dense_values(full);
  for (const auto& [name, value] : expected) EXPECT_EQ(at::equal(got.at(name), value), name.find("self_attn") == std::string::npos) << name;
}

TEST(ApolloMethod, WrapsEveryOptimizer) {
  for (const char* optimizer : {"{name: adam8bit, min_8bit_size: 1}", "{name: adafactor}", "{name: sgd, lr: 0.1}", "{name: muon}",
                                "{name: column_norm}"}) {
    SCOPED_TRACE(optimizer);
    const Trained trained{"", "apollo", "{rank: 8, refresh: 3}", 1e-2, optimizer};
    test::expect_resumes_bit_for_bit(trained);
    test::expect_plan_is_what_is_held(trained);
    test::expect_updates_by_layer_change_nothing(trained);
  }
}

// A channel, or a whole matrix, that never had a gradient stays, and starts to move with its first one.
TEST(ApolloRule, SurvivesGradientsOfZero) {
  for (const auto scaling : {Scaling::channel, Scaling::tensor}) {
    TinyRun run("apollo", "{rank: 4}");
    const RuleSpec spec{"m.weight", ParamRole::matrix, {8, 6}};
    ApolloRule rule({.rank = 4, .scaling = scaling}, spec, 1, run.rules->make_rule(ApolloRule::inner_spec(spec, 4)));
    at::Tensor value = test::normal({8, 6}, 1);
    const at::Tensor start = value.clone();
    at::Tensor gradient = at::zeros({8, 6});
    rule.apply(value, gradient, 0.1, 0.0);
    EXPECT_TRUE(at::equal(value, start));
    gradient = test::normal({8, 6}, 2);
    gradient[3].zero_();
    rule.apply(value, gradient, 0.1, 0.0);
    EXPECT_TRUE(at::equal(value[3], start[3]));
    EXPECT_GT((value - start).norm().item<float>(), 0.1F);
    EXPECT_TRUE(at::isfinite(value).all().item<bool>());
  }
}

TEST(ApolloRule, ForgetsAndTakesOtherSizes) {
  TinyRun run("apollo", "{rank: 4}");
  const auto make = [&](std::vector<std::int64_t> sizes) {
    const RuleSpec spec{"m.weight", ParamRole::matrix, sizes};
    return ApolloRule({.rank = 4, .refresh = 2}, spec, 1, run.rules->make_rule(ApolloRule::inner_spec(spec, 4)));
  };
  const auto moved = [](ApolloRule& rule, std::vector<std::int64_t> sizes) {
    at::Tensor value = at::zeros(sizes, at::kFloat);
    for (std::uint64_t i = 0; i < 3; ++i) {
      at::Tensor gradient = test::normal(sizes, 10 + i);
      rule.apply(value, gradient, 0.1, 0.0);
    }
    return value;
  };
  ApolloRule fresh = make({8, 6}), wide = make({5, 9});
  const at::Tensor expected = moved(fresh, {8, 6}), expected_wide = moved(wide, {5, 9});
  ApolloRule used = make({8, 6});
  moved(used, {8, 6});
  used.forget();
  EXPECT_TRUE(at::equal(moved(used, {8, 6}), expected));
  used.resize({5, 9});
  EXPECT_TRUE(at::equal(moved(used, {5, 9}), expected_wide));
  std::int64_t bytes = 0;
  for (const auto& tensor : used.state_tensors()) bytes += static_cast<std::int64_t>(tensor.nbytes());
  EXPECT_EQ(used.state_nbytes(), bytes);
  EXPECT_EQ(bytes, 16 + 4 * (2 * 4 * 9 + 1));
}

ApolloOptions parsed(const std::string& yaml, ApolloKind kind) {
  const auto node = ConfigNode::parse_text(yaml, "r.yaml");
  auto options = ApolloOptions::parse(node, kind, 512);
  node.finish();
  return options;
}

TEST(ApolloRecipe, HasTheDefaultsOfThePaper) {
  const auto apollo = parsed("{}", ApolloKind::apollo), mini = parsed("{}", ApolloKind::apollo_mini);
  EXPECT_EQ(apollo.rank, 128);
  EXPECT_EQ(apollo.scale, 1.0);
  EXPECT_EQ(apollo.scaling, Scaling::channel);
  EXPECT_EQ(apollo.refresh, 200);
  EXPECT_EQ(apollo.norm_growth, 1.01);
  EXPECT_FALSE(apollo.storage.quantized());
  EXPECT_EQ(mini.rank, 1);
  EXPECT_NEAR(mini.scale * mini.scale, 128.0, 1e-9);
  EXPECT_EQ(mini.scaling, Scaling::tensor);
  for (const auto kind : {ApolloKind::q_apollo, ApolloKind::q_apollo_mini}) {
    const auto quantized = parsed("{}", kind);
    EXPECT_EQ(quantized.storage.weights, (quant::QuantFormat{quant::CodecKind::int8, 128, false}));
    EXPECT_EQ(quantized.storage.rounding, Rounding::stochastic);
  }
}

struct Bad {
  const char* name;
  const char* yaml;
  std::vector<std::string> says;
};

class BadApolloRecipe : public ::testing::TestWithParam<Bad> {};

TEST_P(BadApolloRecipe, IsRefusedWithItsPlaceAndTheFix) {
  for (const auto kind : {ApolloKind::apollo, ApolloKind::q_apollo_mini}) {
    const std::string message = test::message_of<UsageError>([&] { parsed(GetParam().yaml, kind); });
    EXPECT_THAT(message, HasSubstr("r.yaml:1"));
    for (const auto& part : GetParam().says) EXPECT_THAT(message, HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Keys, BadApolloRecipe,
    ::testing::Values(Bad{"unknown_key", "{scal: 8}", {"scal", "scale"}}, Bad{"rank", "{rank: 0}", {"rank", "0"}},
                      Bad{"scale", "{scale: 0}", {"scale"}}, Bad{"scaling", "{scaling: row}", {"scaling", "row", "channel, tensor"}},
                      Bad{"refresh", "{refresh: 0}", {"refresh", "0"}}, Bad{"norm_growth", "{norm_growth: 0.9}", {"norm_growth", "0.9"}},
                      Bad{"target", "{targets: head}", {"unknown target 'head'", "attention, mlp"}},
                      Bad{"codec", "{quantization: {weights: nf5}}", {"quantization.weights", "nf5"}},
                      Bad{"basis", "{quantization: {basis: nf4}}", {"quantization.basis"}},
                      Bad{"rounding", "{quantization: {rounding: up}}", {"quantization.rounding", "nearest, stochastic"}}),
    [](const auto& info) { return info.param.name; });

TEST(ApolloRecipe, RefusesARankLargerThanATargetedLayer) {
  EXPECT_EQ(test::message_of<UsageError>([] { TinyRun("apollo", "{rank: 17}"); }),
            "method.rank 17 is larger than layer model.layers.0.self_attn.k_proj [16, 32]; use at most 16");
  EXPECT_EQ(test::message_of<UsageError>([] { TinyRun("apollo", "{rank: 17, targets: mlp}"); }), "");
}

}  // namespace
}  // namespace kumiko::lowrank
