// SPDX-License-Identifier: Apache-2.0
// What holds for every method that trains: a resumed run, several ranks, accumulation and updates by layer change nothing.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "framework/train/memory_plan.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko::lowrank::test {

struct Trained {
  const char* name;
  const char* method;
  const char* yaml;
  double tolerance = 1e-5;   // of losses whose sums have another order; larger where a last bit may move a code
  const char* optimizer = "";
};

inline kumiko::test::RigOptions rig_options(const Trained& trained) {
  return {.method = trained.method, .method_yaml = trained.yaml, .optimizer_yaml = trained.optimizer};
}

inline std::vector<double> losses(const std::vector<StepReport>& reports) {
  std::vector<double> result;
  for (const auto& report : reports) result.push_back(report.loss);
  return result;
}

inline void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(got[i], expected[i], tolerance * expected[i]) << "step " << i;
  EXPECT_GT(std::abs(expected.back() - expected.front()), 5 * tolerance * expected.front()) << "nothing was trained";
}

// The same four sequences every step, so that the loss falls: as one batch or as micro-batches of one row.
inline kumiko::test::Batches sequences(bool split) {
  const data::Batch whole = kumiko::test::padded_batch({9, 7, 11, 5}, 3);
  if (!split) return {whole};
  kumiko::test::Batches batches;
  for (std::int64_t i = 0; i < 4; ++i) batches.push_back(kumiko::test::rows_of(whole, i, 1));
  return batches;
}

inline void expect_resumes_bit_for_bit(const Trained& trained, int before = 5, int after = 5) {
  kumiko::test::Rig unbroken(rig_options(trained)), resumed(rig_options(trained));
  unbroken.steps(before);
  resumed.trainer.load(unbroken.state());
  const auto expected = unbroken.steps(after);
  const auto got = resumed.steps(after);
  for (std::size_t i = 0; i < expected.size(); ++i) kumiko::test::expect_same_report(got[i], expected[i]);
  kumiko::test::expect_same_state(resumed.state(), unbroken.state());
}

// Two ranks agree bit for bit, with one another and with one rank where the sums are formed in the same tree.
inline void expect_ranks_change_nothing(const Trained& trained, bool per_layer_updates, int steps = 8) {
  auto options = rig_options(trained);
  options.train.per_layer_updates = per_layer_updates;
  kumiko::test::Rig one(options, [](std::int64_t) { return sequences(true); });
  const auto expected = losses(one.steps(steps));
  std::vector<kumiko::test::MemoryState> states(2);
  std::vector<std::vector<double>> got(2);
  dist::run_thread_group(2, [&](dist::Communicator& comm) {
    const auto rank = static_cast<std::size_t>(comm.rank());
    kumiko::test::Rig rig(
        options,
        [rank](std::int64_t) {
          auto all = sequences(true);
          return kumiko::test::Batches{all[2 * rank], all[2 * rank + 1]};
        },
        &comm);
    got[rank] = losses(rig.steps(steps));
    states[rank] = rig.state();
  });
  kumiko::test::expect_same_state(states[1], states[0]);
  expect_near(got[0], expected, trained.tolerance);
}

inline void expect_accumulation_changes_nothing(const Trained& trained, bool per_layer_updates, int steps = 8) {
  auto options = rig_options(trained);
  kumiko::test::Rig whole(options, [](std::int64_t) { return sequences(false); });
  options.train.per_layer_updates = per_layer_updates;
  kumiko::test::Rig split(options, [](std::int64_t) { return sequences(true); });
  const auto expected = losses(whole.steps(steps));
  expect_near(losses(split.steps(steps)), expected, trained.tolerance);
  EXPECT_LT(expected.back(), 0.9 * expected.front());
}

inline void expect_updates_by_layer_change_nothing(const Trained& trained, int steps = 8) {
  auto options = rig_options(trained);
  kumiko::test::Rig together(options, [](std::int64_t) { return sequences(false); });
  options.train.per_layer_updates = true;
  kumiko::test::Rig by_layer(options, [](std::int64_t) { return sequences(false); });
  expect_near(losses(by_layer.steps(steps)), losses(together.steps(steps)), trained.tolerance);
  EXPECT_LT(by_layer.trainer.gradient_nbytes(), together.trainer.gradient_nbytes() / 4);
}

inline void expect_plan_is_what_is_held(const Trained& trained) {
  const auto options = rig_options(trained);
  kumiko::test::Rig rig(options, [](std::int64_t) { return sequences(false); });
  rig.steps(2);
  std::int64_t held = rig.run.optimizer->state_nbytes();
  for (const Parameter* p : rig.model.parameters()) held += p->target == nullptr ? static_cast<std::int64_t>(p->value.nbytes()) : 0;
  for (const Linear* linear : rig.model.linears()) held += linear->frozen_nbytes();
  EXPECT_EQ(plan_memory(options.model, *rig.run.method, options.train, 4, 11).states(), held);
}

// What a recipe's block `method` is refused with on the tiny model; "" where it is not.
inline std::string refusal(const std::string& method, const std::string& yaml) {
  try {
    kumiko::test::TinyRun(method, yaml).config.finish();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

// Parameters, and their gradients as the update finds them, around one step of a single batch.
struct Observed {
  std::map<std::string, at::Tensor> before, gradient, after;   // matrices as the layers multiply by them; others as they are
  double lr = 0.0;
};

inline std::map<std::string, at::Tensor> dense_values(kumiko::test::Rig& rig) {
  std::map<std::string, at::Tensor> values;
  for (Parameter* p : rig.model.parameters()) {
    if (p->target == nullptr) values[p->name] = p->value.to(at::kFloat, false, true);
  }
  for (Linear* linear : rig.model.linears()) values[linear->spec().name + ".weight"] = linear->effective_weight().clone();
  return values;
}

inline Observed observe_step(kumiko::test::Rig& rig) {
  Observed seen;
  seen.before = dense_values(rig);
  rig.model.after_backward = [&](BackwardMode) {
    for (Parameter* p : rig.model.parameters()) seen.gradient[p->name] = p->grad.clone();
  };
  seen.lr = rig.trainer.step().lr;
  rig.model.after_backward = nullptr;
  seen.after = dense_values(rig);
  return seen;
}

}  // namespace kumiko::lowrank::test
