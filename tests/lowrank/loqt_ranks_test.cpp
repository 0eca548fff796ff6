// SPDX-License-Identifier: Apache-2.0
// Several ranks, as threads of one process.
#include <gtest/gtest.h>

#include "tests/lowrank/loqt_test_support.hpp"

namespace kumiko::lowrank {
namespace {

using kumiko::test::TinyRun;
using test::Batch;
using test::batches;
using test::expect_equal;
using test::probe;
using test::snapshot;
using test::State;
using test::train;

struct Trace {
  std::vector<State> states;  // model and optimizer after each merge and each update behind it
  std::vector<MethodReport> reports;
};

// Three probes, an update behind each, on this rank's share of four micro-batches.
Trace run_ranks(const std::string& recipe, dist::Communicator& comm, std::uint64_t seed) {
  TinyRun run("loqt", recipe);
  Trace trace;
  const auto record = [&] {
    State state = snapshot(*run.model);
    state.merge(snapshot(*run.optimizer));
    trace.states.push_back(state);
  };
  for (const std::int64_t step : {0, 5, 9}) {
    const auto all = batches(4, seed + static_cast<std::uint64_t>(step));
    const auto share = 4 / comm.size();
    const std::vector<Batch> own(all.begin() + comm.rank() * share, all.begin() + (comm.rank() + 1) * share);
    trace.reports.push_back(probe(run, step, own, comm));
    record();
    train(run, own, 0.02, comm);
    record();
  }
  return trace;
}

class LoqtRanks : public ::testing::TestWithParam<const char*> {
 protected:
  std::string recipe() const {
    return concat("{rank: 8, schedule: {kind: at_steps, steps: [5, 9]}, ", GetParam(), "}");
  }
};

// Sums over four ranks of one micro-batch are formed as ((0 + 1) + (2 + 3)), so that one rank's own order,
// ((0 + 1) + 2) + 3, may differ in the last bits: bit-equality among ranks here, against one rank below.
TEST_P(LoqtRanks, HoldTheSameBitsAfterEveryMerge) {
  for (const int size : {2, 4}) {
    std::vector<Trace> traces(static_cast<std::size_t>(size));
    dist::run_thread_group(size, [&](dist::Communicator& comm) {
      traces[static_cast<std::size_t>(comm.rank())] = run_ranks(recipe(), comm, 20);
    });
    for (std::size_t rank = 1; rank < traces.size(); ++rank) {
      for (std::size_t i = 0; i < traces[0].states.size(); ++i) {
        SCOPED_TRACE(concat("rank ", rank, " of ", size, ", state ", i));
        expect_equal(traces[rank].states[i], traces[0].states[i]);
      }
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(traces[rank].reports[i].captured_energy, traces[0].reports[i].captured_energy);
        EXPECT_EQ(traces[rank].reports[i].weight_error, traces[0].reports[i].weight_error);
        EXPECT_EQ(traces[rank].reports[i].merged, i > 0);
      }
    }
  }
}

// Two ranks with one micro-batch each form the sum 0 + 1, as one rank with both does.
TEST_P(LoqtRanks, TwoEqualOneRankBitForBitWhereTheSumsAreEqual) {
  const auto two_micro_batches = [&](dist::Communicator& comm) {
    TinyRun run("loqt", recipe());
    std::vector<State> states;
    for (const std::int64_t step : {0, 5, 9}) {
      const auto all = batches(2, 40 + static_cast<std::uint64_t>(step));
      const std::vector<Batch> own =
          comm.size() == 1 ? all : std::vector<Batch>{all[static_cast<std::size_t>(comm.rank())]};
      probe(run, step, own, comm);
      states.push_back(snapshot(*run.model));
      train(run, own, 0.02, comm);
      states.push_back(snapshot(*run.model));
      states.push_back(snapshot(*run.optimizer));
    }
    return states;
  };
  const auto one = two_micro_batches(*dist::make_solo());
  std::vector<State> two;
  dist::run_thread_group(2, [&](dist::Communicator& comm) {
    auto states = two_micro_batches(comm);
    if (comm.rank() == 1) two = std::move(states);
  });
  ASSERT_EQ(two.size(), one.size());
  for (std::size_t i = 0; i < one.size(); ++i) {
    SCOPED_TRACE(concat("state ", i));
    expect_equal(two[i], one[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, LoqtRanks,
                         ::testing::Values("moments: rotate", "moments: reset", "moments: keep",
                                           "basis: {solver: svd}", "basis: {solver: eigh}",
                                           "basis: {solver: random}", "basis: {group_memory: 1KiB}",
                                           "quantization: {weights: none, basis: none}", "factor: bf16"),
                         [](const auto& info) { return concat("n", info.index); });

// A number that is not finite on one rank alone makes all of them skip.
TEST(LoqtRanks, SkipTogetherWhenOneMeetsANonFiniteNumber) {
  std::vector<MethodReport> reports(2);
  std::vector<State> before(2), after(2);
  dist::run_thread_group(2, [&](dist::Communicator& comm) {
    const auto rank = static_cast<std::size_t>(comm.rank());
    TinyRun run("loqt", "{rank: 8, schedule: {kind: at_steps, steps: [5]}}");
    probe(run, 0, batches(1, 1 + rank), comm);
    before[rank] = test::layer_state(run);
    if (rank == 1)
      run.parameters().at("model.embed_tokens.weight")->value.fill_(std::numeric_limits<float>::infinity());
    reports[rank] = probe(run, 5, batches(1, 3 + rank), comm);
    after[rank] = test::layer_state(run);
  });
  for (std::size_t rank : {0U, 1U}) {
    EXPECT_TRUE(reports[rank].skipped);
    expect_equal(after[rank], before[rank]);
  }
}

}  // namespace
}  // namespace kumiko::lowrank
