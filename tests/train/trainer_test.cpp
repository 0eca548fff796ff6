// SPDX-License-Identifier: Apache-2.0
#include "framework/train/trainer.hpp"

#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include "tests/support/reference_llama.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko {
namespace {

using test::Batches;
using test::expect_same_report;
using test::expect_same_state;
using test::padded_batch;
using test::Rig;
using test::RigOptions;
using test::rows_of;
using test::same_bits;

double relative(const at::Tensor& a, const at::Tensor& b) {
  return (at::norm(a.to(at::kDouble) - b.to(at::kDouble)) / at::norm(b.to(at::kDouble)).clamp_min(1e-12))
      .item<double>();
}

std::map<std::string, at::Tensor> gradients(Rig& rig) {
  std::map<std::string, at::Tensor> result;
  for (Parameter* p : rig.run.model->parameters()) result[p->name] = p->grad.clone();
  return result;
}

// Loss and gradients of the mean over all targets of a batch, by autograd in fp64.
struct Expected {
  double loss = 0.0;
  std::map<std::string, at::Tensor> gradients;
};

Expected textbook(const data::Batch& batch) {
  test::TinyRun run("full", "");
  test::Weights weights;
  for (Parameter* p : run.model->parameters()) weights[p->name] = p->value.to(at::kDouble);
  for (Linear* linear : run.model->linears())
    weights[linear->spec().name] = linear->effective_weight().to(at::kDouble);
  for (auto& [name, value] : weights) value = value.clone().set_requires_grad(true);
  const at::Tensor loss =
      test::reference_loss_sum(test::tiny_options(), weights, batch.tokens, batch.targets) /
      static_cast<double>(batch.target_count);
  loss.backward();
  Expected expected{loss.item<double>(), {}};
  for (Parameter* p : run.model->parameters()) {
    std::string key = p->name;
    if (p->role == ParamRole::matrix) key = key.substr(0, key.size() - std::string(".weight").size());
    expected.gradients[p->name] = weights.at(key).grad();
  }
  return expected;
}

struct Split {
  const char* name;
  int ranks;
  std::vector<std::int64_t> rows;  // of each micro-batch, over all ranks
  bool deterministic = false;
};

class TokenWeighting : public ::testing::TestWithParam<Split> {};

// Rows of 11, 2, 7 and 1 targets: means of micro-batches' means would be far off.
TEST_P(TokenWeighting, GivesTheMeanOverTargetsWhateverTheSplit) {
  const data::Batch whole = padded_batch({11, 2, 7, 1}, 3);
  ASSERT_EQ(whole.target_count, 21);
  const Expected expected = textbook(whole);
  Batches micro;
  std::int64_t begin = 0;
  for (const std::int64_t rows : GetParam().rows) {
    micro.push_back(rows_of(whole, begin, rows));
    begin += rows;
  }
  RigOptions options;
  options.train.deterministic = GetParam().deterministic;
  dist::run_thread_group(GetParam().ranks, [&](dist::Communicator& comm) {
    at::set_num_threads(1);
    const auto share = micro.size() / static_cast<std::size_t>(comm.size());
    const auto first = micro.begin() + static_cast<std::ptrdiff_t>(share) * comm.rank();
    const Batches own(first, first + static_cast<std::ptrdiff_t>(share));
    Rig rig(
        options, [&own](std::int64_t) { return own; }, &comm);
    const StepReport report = rig.trainer.step();
    EXPECT_EQ(report.target_tokens, 21);
    EXPECT_NEAR(report.loss, expected.loss, 1e-5 * expected.loss);
    double square = 0.0;
    for (const auto& [name, gradient] : gradients(rig)) {
      EXPECT_LT(relative(gradient, expected.gradients.at(name)), 2e-5) << name << ", rank " << comm.rank();
      square += expected.gradients.at(name).square().sum().item<double>();
    }
    EXPECT_NEAR(report.grad_norm, std::sqrt(square), 2e-5 * std::sqrt(square));
  });
}

INSTANTIATE_TEST_SUITE_P(Splits, TokenWeighting,
                         ::testing::Values(Split{"whole", 1, {4}}, Split{"halves", 1, {2, 2}},
                                           Split{"uneven", 1, {3, 1}}, Split{"rows", 1, {1, 1, 1, 1}},
                                           Split{"rows_deterministic", 1, {1, 1, 1, 1}, true},
                                           Split{"two_ranks", 2, {2, 2}},
                                           Split{"two_ranks_rows", 2, {1, 1, 1, 1}, true},
                                           Split{"four_ranks", 4, {1, 1, 1, 1}}),
                         [](const auto& info) { return info.param.name; });

TEST(GradClip, ScalesTheGradientsToTheNorm) {
  RigOptions options;
  Rig free(options);
  const StepReport unclipped = free.trainer.step();
  ASSERT_GT(unclipped.grad_norm, 0.5);
  options.train.grad_clip = unclipped.grad_norm / 8.0;
  Rig clipped(options);
  const StepReport report = clipped.trainer.step();
  EXPECT_EQ(report.grad_norm, unclipped.grad_norm);  // of the gradients before clipping
  double square = 0.0;
  const auto before = gradients(free);
  for (const auto& [name, gradient] : gradients(clipped)) {
    EXPECT_LT(relative(gradient, before.at(name) / 8.0), 1e-6) << name;
    square += gradient.to(at::kDouble).square().sum().item<double>();
  }
  EXPECT_NEAR(std::sqrt(square), options.train.grad_clip, 1e-6 * options.train.grad_clip);
  // The optimizer saw the clipped ones: its first moment is 0.1 of them.
  const at::Tensor moment = clipped.run.optimizer->state_tensors("model.norm.weight").at(0);
  EXPECT_LT(relative(moment, before.at("model.norm.weight") / 80.0), 1e-5);
}

TEST(GradClip, LeavesSmallGradientsAlone) {
  RigOptions options;
  Rig free(options);
  options.train.grad_clip = 1.001 * free.trainer.step().grad_norm;
  Rig clipped(options);
  clipped.trainer.step();
  expect_same_state(clipped.state(), free.state());
}

TEST(Trainer, LowersTheLossWithEachMethod) {
  for (const char* method : {"full", "loqt", "loqt_nq"}) {
    RigOptions options{.method = method};
    options.method_yaml = std::string(method) == "full" ? "" : "{rank: 8, schedule: {kind: static, tau: 8}}";
    options.model.init_std = 0.02;
    Rig rig(options, [](std::int64_t) { return test::four_micro_batches(0); });
    const auto reports = rig.steps(40);
    EXPECT_LT(reports.back().loss, 0.5 * reports.front().loss) << method;
    EXPECT_EQ(rig.trainer.next_step(), 40);
    EXPECT_EQ(rig.trainer.tokens_seen(), 40 * reports.front().target_tokens);
  }
}

TEST(Trainer, TakesTheRateOfTheScheduleAtEachStep) {
  RigOptions options;
  options.lr = {.kind = LrKind::linear, .warmup_steps = 3, .min_ratio = 0.0};
  options.train.steps = 10;
  options.peak_lr = 0.5;
  Rig rig(options);
  const auto before = rig.state();
  const auto first = rig.trainer.step();
  EXPECT_EQ(first.lr, 0.0);  // the warm-up begins at 0: nothing moves
  for (const auto& [name, value] : rig.state().tensors) {
    if (name.starts_with("model/")) {
      EXPECT_TRUE(same_bits(value, before.tensors.at(name))) << name;
    }
  }
  for (std::int64_t step = 1; step < 6; ++step) EXPECT_EQ(rig.trainer.step().lr, rig.lr.at(step));
}

class ProbeStep : public ::testing::TestWithParam<const char*> {};

TEST_P(ProbeStep, TakesItsBatchAndItsStepAndMovesNoDenseParameter) {
  RigOptions options{.method = GetParam(), .method_yaml = "{rank: 8, schedule: {kind: static, tau: 3}}"};
  options.lr = {.kind = LrKind::linear, .min_ratio = 0.0};
  options.train.steps = 10;
  std::vector<std::int64_t> asked;
  Rig rig(options, [&asked](std::int64_t step) {
    asked.push_back(step);
    return test::four_micro_batches(step);
  });
  std::int64_t tokens = 0;
  for (std::int64_t step = 0; step < 7; ++step) {
    const auto before = rig.state();
    const StepReport report = rig.trainer.step();
    const auto after = rig.state();
    const bool probe = step % 3 == 0;
    tokens += report.target_tokens;
    EXPECT_EQ(report.step, step);
    EXPECT_EQ(report.probe, probe);
    EXPECT_FALSE(report.skipped);
    EXPECT_EQ(report.method.merged, probe && step > 0);
    EXPECT_NEAR(report.lr, 0.01 * (1.0 - 0.1 * static_cast<double>(step)), 1e-15);
    EXPECT_EQ(rig.trainer.next_step(), step + 1);
    EXPECT_EQ(rig.trainer.tokens_seen(), tokens);
    EXPECT_EQ(report.grad_norm == 0.0, probe);
    for (Parameter* p : rig.run.model->parameters()) {
      if (p->role == ParamRole::factor) continue;
      EXPECT_EQ(same_bits(after.tensors.at("model/" + p->name), before.tensors.at("model/" + p->name)), probe)
          << p->name;
      for (const char* part : {"/exp_avg", "/exp_avg_sq", "/step"}) {
        const std::string name = "optimizer/" + p->name + part;
        EXPECT_EQ(same_bits(after.tensors.at(name), before.tensors.at(name)), probe)
            << name << ", step " << step;
      }
    }
  }
  EXPECT_EQ(asked, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6}));  // once a step, however many passes
  EXPECT_EQ(rig.run.method->merges(), 2);
}

// The loss of a probe is the model's on the step's tokens, before the merge.
TEST_P(ProbeStep, ReportsTheLossOfItsTokens) {
  RigOptions options{.method = GetParam(), .method_yaml = "{rank: 8, schedule: {kind: static, tau: 3}}"};
  Rig rig(options);
  rig.steps(3);
  double loss = 0.0;
  std::int64_t tokens = 0;
  for (const auto& batch : test::four_micro_batches(3)) {
    loss += rig.run.model->loss_sum(batch.tokens, batch.targets).item<double>();
    tokens += batch.target_count;
  }
  const StepReport report = rig.trainer.step();
  ASSERT_TRUE(report.probe);
  EXPECT_NEAR(report.loss, loss / static_cast<double>(tokens), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Methods, ProbeStep, ::testing::Values("loqt", "loqt_nq"),
                         [](const auto& info) { return info.param; });

struct Broken {
  const char* name;
  const char* method;
  const char* yaml;
  bool deterministic = false;
};

class SaveAndLoad : public ::testing::TestWithParam<Broken> {
 protected:
  RigOptions options() const {
    RigOptions options{.method = GetParam().method, .method_yaml = GetParam().yaml};
    options.lr = {.kind = LrKind::plateau, .warmup_steps = 2, .patience = 1};
    options.train.steps = 12;
    options.train.deterministic = GetParam().deterministic;
    options.train.grad_clip = 1.0;
    options.optimizer_yaml = "{weight_decay: 0.1}";
    return options;
  }
  // An evaluation after each second step, ever worse, so that the plateau's rate falls on both sides of a
  // break.
  static StepReport step(Rig& rig) {
    StepReport report = rig.trainer.step();
    if (rig.trainer.next_step() % 2 == 0) rig.lr.observe_eval(static_cast<double>(rig.trainer.next_step()));
    return report;
  }
};

TEST_P(SaveAndLoad, GoOnAsAnUnbrokenRunBitForBit) {
  Rig unbroken(options());
  std::vector<test::MemoryState> states;
  std::vector<StepReport> reports;
  for (int i = 0; i < 12; ++i) {
    states.push_back(unbroken.state());
    reports.push_back(step(unbroken));
  }
  ASSERT_LT(reports.back().lr, reports[3].lr);
  for (const std::size_t at : {1U, 4U, 5U, 8U, 11U}) {  // behind, before and between merges at 4 and 8
    SCOPED_TRACE(concat("broken at ", at));
    Rig resumed(options());
    if (at % 2 == 0) {  // nothing may be left of what was there
      for (int i = 0; i < 9; ++i) step(resumed);
    }
    resumed.trainer.load(states[at]);
    EXPECT_EQ(resumed.trainer.next_step(), static_cast<std::int64_t>(at));
    expect_same_state(resumed.state(), states[at]);
    for (std::size_t i = at; i < 12; ++i) expect_same_report(step(resumed), reports[i]);
    expect_same_state(resumed.state(), unbroken.state());
    EXPECT_EQ(resumed.run.method->merges(), unbroken.run.method->merges());
  }
}

constexpr const char* kSchedule = "{rank: 8, schedule: {kind: static, tau: 4}}";
INSTANTIATE_TEST_SUITE_P(Methods, SaveAndLoad,
                         ::testing::Values(Broken{"full", "full", ""}, Broken{"loqt", "loqt", kSchedule},
                                           Broken{"loqt_nq", "loqt_nq", kSchedule},
                                           Broken{"loqt_deterministic", "loqt", kSchedule, true}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kumiko
