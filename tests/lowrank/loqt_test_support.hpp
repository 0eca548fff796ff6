// SPDX-License-Identifier: Apache-2.0
// Steps of a tiny LoQT run as a trainer takes them, and its state for comparisons.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "lowrank/loqt_linear.hpp"
#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/support/memory_state.hpp"
#include "tests/support/tiny_model.hpp"

namespace kumiko::lowrank::test {

using State = std::map<std::string, at::Tensor>;

struct Batch {
  at::Tensor tokens, targets;  // [B, T]
  double grad_scale() const { return 1.0 / static_cast<double>(2 * targets.numel()); }
};

// Micro-batches of 2 x 13 random tokens.
inline std::vector<Batch> batches(std::int64_t count, std::uint64_t seed = 5) {
  std::vector<Batch> result;
  for (std::int64_t i = 0; i < count; ++i) {
    const at::Tensor stream =
        kumiko::test::random_tokens(2, 14, 61, 100 * seed + static_cast<std::uint64_t>(i));
    result.push_back({stream.narrow(1, 0, 13).contiguous(), stream.narrow(1, 1, 13).contiguous()});
  }
  return result;
}

inline std::vector<LoqtLinear*> loqt_layers(kumiko::test::TinyRun& run) {
  std::vector<LoqtLinear*> layers;
  for (Linear* linear : run.model->linears()) {
    if (auto* layer = dynamic_cast<LoqtLinear*>(linear)) layers.push_back(layer);
  }
  return layers;
}

// Runs the micro-batches one by one; what each adds to `targets` is summed in order, then over ranks.
inline void run_summed(kumiko::test::TinyRun& run, std::vector<at::Tensor> targets,
                       const std::vector<Batch>& micro_batches, BackwardMode mode, dist::Communicator& comm) {
  at::set_num_threads(1);  // of this thread: products this small gain nothing from more
  std::vector<at::Tensor> sums;
  for (const auto& target : targets) sums.push_back(at::zeros_like(target));
  for (const Batch& batch : micro_batches) {
    for (auto& target : targets) target.zero_();
    run.model->forward_backward(batch.tokens, batch.targets, batch.grad_scale(), mode);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i].add_(targets[i]);
  }
  for (std::size_t i = 0; i < sums.size(); ++i) {
    targets[i].copy_(sums[i]);
    comm.all_reduce(targets[i], dist::ReduceOp::sum)->wait();
  }
}

// A probe step; `between` runs at each border of a pass.
inline MethodReport probe(
    kumiko::test::TinyRun& run, std::int64_t step, const std::vector<Batch>& micro_batches,
    dist::Communicator& comm, const std::function<void()>& between = [] {}) {
  const StepPlan plan = run.method->begin_step(step);
  EXPECT_FALSE(plan.update);
  for (int pass = 0; pass < plan.probe_passes; ++pass) {
    run.method->begin_pass(pass);
    between();
    run_summed(run, run.method->accumulators(), micro_batches, BackwardMode::probe, comm);
    between();
    run.method->end_pass(pass, comm);
    between();
  }
  MethodReport report;
  run.method->end_probe(step, *run.optimizer, comm, report);
  return report;
}

// An optimizer step.
inline void train(kumiko::test::TinyRun& run, const std::vector<Batch>& micro_batches, double learning_rate,
                  dist::Communicator& comm) {
  run_summed(run, {run.grads->flat()}, micro_batches, BackwardMode::update, comm);
  run.optimizer->step(learning_rate);
}

template <class T>
State snapshot(const T& object) {
  kumiko::test::MemoryState state;
  object.save(state);
  return state.tensors;
}

inline State layer_state(kumiko::test::TinyRun& run) {
  State state;
  for (LoqtLinear* layer : loqt_layers(run)) {
    const auto tensors = layer->state_tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i)
      state[concat(layer->spec().name, "/", i)] = tensors[i].clone();
  }
  return state;
}

// Bit for bit.
inline void expect_equal(const State& got, const State& expected) {
  ASSERT_EQ(got.size(), expected.size());
  ASSERT_FALSE(expected.empty());
  for (const auto& [name, value] : expected) {
    ASSERT_TRUE(got.contains(name)) << name;
    EXPECT_TRUE(at::equal(got.at(name), value)) << name;
  }
}

inline void expect_equal_layers(kumiko::test::TinyRun& a, kumiko::test::TinyRun& b) {
  expect_equal(layer_state(a), layer_state(b));
}

}  // namespace kumiko::lowrank::test
