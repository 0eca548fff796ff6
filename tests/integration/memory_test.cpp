// SPDX-License-Identifier: Apache-2.0
// What a probe step allocates, by the counting allocator, at the size of the papers' smallest model.
#include <gtest/gtest.h>

#include "framework/core/memory_counter.hpp"
#include "lowrank/basis_sketch.hpp"
#include "tests/integration/trained_run.hpp"

namespace kumiko::test {
namespace {

std::int64_t peak_of_step(TrainedRun& run) {
  memory_counter::reset_peak();
  const std::int64_t before = memory_counter::current_bytes();
  run.trainer.step();
  return memory_counter::peak_bytes() - before;
}

struct Case {
  const char* name;
  const char* basis;
};

class ProbeMemory : public ::testing::TestWithParam<Case> {};

TEST_P(ProbeMemory, StaysWithinAnOrdinaryStepPlusOneGroupAndOneLayer) {
  memory_counter::install();
  ModelOptions model = ModelOptions::from_preset("60m");
  model.vocab_size = 4096;   // a small head: the bound must not hide behind logits
  ComputeOptions compute;
  compute.compute_dtype = at::kBFloat16;
  const std::string yaml = std::string("{rank: 128, basis: ") + GetParam().basis + ", schedule: {kind: static, tau: 3}}";
  TrainedRun run("loqt", yaml, 2, 1, 128, 12, model, compute);
  peak_of_step(run);                                        // step 0: the first probe
  const std::int64_t ordinary = std::max(peak_of_step(run), peak_of_step(run));
  const std::int64_t probe = peak_of_step(run);             // step 3: a trained merge
  ASSERT_EQ(run.run.method->merges(), 1);

  MemoryPlan plan;
  run.run.method->plan(model, plan);
  const std::int64_t layer = plan.scratch;                  // of the largest layer
  EXPECT_LE(probe, ordinary + plan.sketches + layer) << "probe " << probe << ", ordinary " << ordinary << ", sketches " << plan.sketches;
  // Neither a full-size gradient nor dense weights of all layers fit into what a probe takes beyond an ordinary step.
  EXPECT_LT(probe - ordinary, 4 * model.linear_parameters());
  RecordProperty("probe_bytes", std::to_string(probe));
  RecordProperty("ordinary_bytes", std::to_string(ordinary));
}

INSTANTIATE_TEST_SUITE_P(Solvers, ProbeMemory,
                         ::testing::Values(Case{"range_finder", "{solver: range_finder}"},
                                           Case{"small_groups", "{solver: range_finder, group_memory: 4MiB}"},
                                           Case{"dense_gradients", "{solver: eigh, group_memory: 12MiB}"}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kumiko::test
