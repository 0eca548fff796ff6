// SPDX-License-Identifier: Apache-2.0
// GaLore's steps however the global batch is cut: into micro-batches, ranks, and updates inside the backward
// pass.
#include <gtest/gtest.h>

#include "tests/train/trainer_rig.hpp"

namespace kumiko {
namespace {

using test::Batches;
using test::Rig;
using test::RigOptions;

struct Trained {
  std::vector<StepReport> reports;
  test::MemoryState state;
  std::int64_t gradient_bytes = 0;
};

struct Cut {
  int ranks = 1;
  std::int64_t micro_batches = 1;  // a rank
  bool per_layer = false;
};

constexpr const char* kRecipe =
    "{rank: 8, schedule: {kind: static, tau: 10}}";  // 30 steps: refreshes at 0, 10, 20
constexpr int kSteps = 30;

// Eight sequences of unequal target counts a step, the same for every cut.
std::vector<Trained> train(const std::string& method, const std::string& yaml, const Cut& cut,
                       int steps = kSteps) {
  RigOptions options{.method = method, .method_yaml = yaml, .peak_lr = 0.005};
  options.model.init_std = 0.05;
  options.train.per_layer_updates = cut.per_layer;
  std::vector<Trained> runs(static_cast<std::size_t>(cut.ranks));
  dist::run_thread_group(cut.ranks, [&](dist::Communicator& comm) {
    const auto own = [&](std::int64_t step) {
      std::vector<std::int64_t> counts;
      for (std::uint64_t i = 0; i < 8; ++i)
        counts.push_back(3 + static_cast<std::int64_t>(mix64(8 * static_cast<std::uint64_t>(step) + i) % 9));
      const data::Batch whole = test::padded_batch(counts, static_cast<std::uint64_t>(step) + 1);
      const std::int64_t rows = 8 / (cut.ranks * cut.micro_batches);
      Batches batches;
      for (std::int64_t i = 0; i < cut.micro_batches; ++i)
        batches.push_back(test::rows_of(whole, (comm.rank() * cut.micro_batches + i) * rows, rows));
      return batches;
    };
    Rig rig(options, own, &comm);
    Trained& run = runs[static_cast<std::size_t>(comm.rank())];
    run.reports = rig.steps(steps);
    run.state = rig.state();
    run.gradient_bytes = rig.trainer.gradient_nbytes();
  });
  return runs;
}

class GaloreCuts : public ::testing::TestWithParam<Cut> {};

TEST_P(GaloreCuts, HaveTheLossesOfOneRankWithOneMicroBatch) {
  static const Trained whole = train("galore", kRecipe, {}).front();
  const auto runs = train("galore", kRecipe, GetParam());
  int refreshes = 0;
  for (std::size_t i = 0; i < kSteps; ++i) {
    EXPECT_NEAR(runs[0].reports[i].loss, whole.reports[i].loss, 1e-5) << "step " << i;
    EXPECT_EQ(runs[0].reports[i].target_tokens, whole.reports[i].target_tokens);
    refreshes += runs[0].reports[i].probe ? 1 : 0;
  }
  EXPECT_EQ(refreshes, 3);
  EXPECT_LT(whole.reports.back().loss, whole.reports.front().loss);
  for (const Trained& run : runs) test::expect_same_state(run.state, runs[0].state);
}

INSTANTIATE_TEST_SUITE_P(Galore, GaloreCuts,
                         ::testing::Values(Cut{1, 4}, Cut{2, 1}, Cut{1, 1, true}, Cut{1, 4, true},
                                           Cut{2, 1, true}, Cut{2, 4, true}),
                         [](const auto& info) {
                           return concat("ranks", info.param.ranks, "_micro", info.param.micro_batches,
                                         info.param.per_layer ? "_by_layer" : "");
                         });

// INT8 weights jump by a step of the codec where a sum's last bit turns a stochastic rounding; until then
// losses are equal.
TEST(QGalore, HoldsTheSameBitsOnAllRanksAndTheLossesOfOne) {
  const std::string yaml = "{rank: 8, schedule: {tau: 2}, refresh: {similarity: 0.5, window: 2}}";
  const Trained whole = train("q_galore", yaml, {}, 12).front();
  for (const bool per_layer : {false, true}) {
    const auto runs = train("q_galore", yaml, {2, 2, per_layer}, 12);
    test::expect_same_state(runs[1].state, runs[0].state);
    for (std::size_t i = 0; i < 12; ++i)
      EXPECT_NEAR(runs[0].reports[i].loss, whole.reports[i].loss, 2e-3) << i;
    EXPECT_NEAR(runs[0].reports[0].loss, whole.reports[0].loss, 1e-5);
  }
}

TEST(GaloreGradients, AreOfTheProjectedSizesAtMost) {
  RigOptions options{.method = "galore", .method_yaml = kRecipe};
  Rig dense({.method = "full"});
  Rig rig(options);
  rig.steps(2);
  std::int64_t bytes = 0;
  for (Parameter* p : rig.run.model->parameters()) {
    const auto numel = static_cast<std::int64_t>(p->grad.numel());
    if (p->target != nullptr) {
      const auto& value = dense.run.parameters().at(p->name)->value;
      EXPECT_EQ(numel, 8 * std::max(value.size(0), value.size(1))) << p->name;
    }
    bytes += 4 * ((numel + 15) / 16 * 16);  // each begins at a multiple of 64 bytes
  }
  EXPECT_EQ(rig.trainer.gradient_nbytes(), bytes);

  // Updated by layer: never more than the embedding or the head, which are dense.
  options.train.per_layer_updates = true;
  Rig by_layer(options, [](std::int64_t step) { return Batches{test::four_micro_batches(step).front()}; });
  by_layer.steps(2);
  EXPECT_EQ(by_layer.trainer.gradient_nbytes(), 4 * 61 * 32);
}

}  // namespace
}  // namespace kumiko
