// SPDX-License-Identifier: Apache-2.0
// train.deterministic: sums over micro-batches are those of one binary tree, wherever ranks cut it.
#include <gtest/gtest.h>

#include "tests/train/trainer_rig.hpp"

namespace kumiko {
namespace {

using test::Batches;
using test::expect_same_report;
using test::expect_same_state;
using test::Rig;
using test::RigOptions;
using test::same_bits;

Batches micro_batches(std::int64_t step, std::int64_t count) {
  Batches batches;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto seed = static_cast<std::uint64_t>(step * count + i);
    batches.push_back(test::padded_batch({2 + static_cast<std::int64_t>(mix64(seed + 5) % 11)}, seed + 1));
  }
  return batches;
}

at::Tensor sum_of(const std::vector<at::Tensor>& terms) {
  const auto t = [&terms](std::size_t i) { return terms.at(i); };
  switch (terms.size()) {
    case 1:
      return t(0);
    case 2:
      return t(0) + t(1);
    case 3:
      return t(0) + (t(1) + t(2));
    case 4:
      return (t(0) + t(1)) + (t(2) + t(3));
    case 6:
      return (t(0) + (t(1) + t(2))) + (t(3) + (t(4) + t(5)));
    case 8:
      return ((t(0) + t(1)) + (t(2) + t(3))) + ((t(4) + t(5)) + (t(6) + t(7)));
    default:
      ADD_FAILURE() << "no tree written for " << terms.size();
      return {};
  }
}

class MicroBatchTree : public ::testing::TestWithParam<int> {};

TEST_P(MicroBatchTree, IsTheOneWrittenByHand) {
  const Batches batches = micro_batches(0, GetParam());
  RigOptions options;
  options.train.deterministic = true;
  Rig rig(options, [&](std::int64_t) { return batches; });

  test::TinyRun alone("full", "");
  std::int64_t tokens = 0;
  for (const auto& batch : batches) tokens += batch.target_count;
  std::vector<at::Tensor> gradients, losses;
  at::Tensor in_order = at::zeros_like(alone.grads->flat());
  for (const auto& batch : batches) {
    alone.grads->zero();
    losses.push_back(alone.model->forward_backward(batch.tokens, batch.targets,
                                                   1.0 / static_cast<double>(tokens), BackwardMode::update));
    gradients.push_back(alone.grads->flat().clone());
    in_order.add_(gradients.back());
  }
  const StepReport report = rig.trainer.step();
  EXPECT_EQ(report.loss, sum_of(losses).item<double>() / static_cast<double>(tokens));
  alone.grads->flat().copy_(sum_of(gradients));
  const auto expected = alone.parameters();
  for (Parameter* p : rig.run.model->parameters())
    EXPECT_TRUE(same_bits(p->grad, expected.at(p->name)->grad)) << p->name;
  // Sums in order differ in the last bits, so that the tree above is told from them.
  EXPECT_EQ(same_bits(in_order, alone.grads->flat()), GetParam() <= 2);
}

INSTANTIATE_TEST_SUITE_P(Counts, MicroBatchTree, ::testing::Values(1, 2, 3, 4, 6, 8),
                         [](const auto& info) { return concat("n", info.param); });

struct Result {
  std::vector<StepReport> reports;
  test::MemoryState state;
};

struct Training {
  const char* name;
  const char* method;
  const char* yaml;
  double grad_clip = 0.0;
};

class RanksCutTheTree : public ::testing::TestWithParam<Training> {
 protected:
  static std::vector<Result> train(int ranks, std::int64_t micro) {
    RigOptions options{.method = GetParam().method, .method_yaml = GetParam().yaml};
    options.train.deterministic = true;
    options.train.grad_clip = GetParam().grad_clip;
    std::vector<Result> results(static_cast<std::size_t>(ranks));
    dist::run_thread_group(ranks, [&](dist::Communicator& comm) {
      at::set_num_threads(1);
      const auto own = [&comm, micro](std::int64_t step) {
        const Batches all = micro_batches(step, micro);
        const auto share = static_cast<std::ptrdiff_t>(all.size()) / comm.size();
        return Batches(all.begin() + share * comm.rank(), all.begin() + share * (comm.rank() + 1));
      };
      Rig rig(options, own, &comm);
      Result& result = results[static_cast<std::size_t>(comm.rank())];
      result.reports = rig.steps(10);  // merges at 3, 6 and 9
      result.state = rig.state();
    });
    return results;
  }
};

TEST_P(RanksCutTheTree, AndGetTheSameBits) {
  for (const std::int64_t micro : {4, 8}) {
    const Result one = train(1, micro).front();
    for (const int ranks : {2, 4}) {
      const auto several = train(ranks, micro);
      for (const Result& rank : several) {
        SCOPED_TRACE(concat(ranks, " ranks, ", micro, " micro-batches"));
        for (std::size_t i = 0; i < one.reports.size(); ++i)
          expect_same_report(rank.reports[i], one.reports[i]);
        expect_same_state(rank.state, one.state);
      }
    }
  }
}

constexpr const char* kSchedule = "{rank: 8, schedule: {kind: static, tau: 3}}";
INSTANTIATE_TEST_SUITE_P(
    Methods, RanksCutTheTree,
    ::testing::Values(Training{"full", "full", ""}, Training{"full_clipped", "full", "", 0.5},
                      Training{"loqt", "loqt", kSchedule}, Training{"loqt_nq", "loqt_nq", kSchedule},
                      Training{"galore", "galore", kSchedule}, Training{"q_galore", "q_galore", kSchedule},
                      Training{"svd", "loqt",
                               "{rank: 8, basis: {solver: svd}, schedule: {kind: static, tau: 3}}"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kumiko
