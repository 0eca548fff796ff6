// SPDX-License-Identifier: Apache-2.0
// A Trainer over a tiny model whose batches, options and ranks a test chooses, and comparisons of its whole
// state.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "framework/model/lr_schedule.hpp"
#include "framework/train/trainer.hpp"
#include "tests/support/memory_state.hpp"
#include "tests/support/tiny_model.hpp"

namespace kumiko::test {

using Batches = std::vector<data::Batch>;

// `count` of the targets of each row have a loss; a row is as long as the longest of them.
inline data::Batch padded_batch(const std::vector<std::int64_t>& counts, std::uint64_t seed,
                                std::int64_t vocab = 61) {
  const auto rows = static_cast<std::int64_t>(counts.size());
  const std::int64_t length = *std::max_element(counts.begin(), counts.end());
  data::Batch batch{at::full({rows, length}, 2, at::kLong),
                    at::full({rows, length}, data::kNoTarget, at::kLong), 0};
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t count = counts[static_cast<std::size_t>(row)];
    const at::Tensor stream =
        random_tokens(1, count + 1, vocab, seed * 131 + static_cast<std::uint64_t>(row))[0];
    batch.tokens[row].narrow(0, 0, count).copy_(stream.narrow(0, 0, count));
    batch.targets[row].narrow(0, 0, count).copy_(stream.narrow(0, 1, count));
    batch.target_count += count;
  }
  return batch;
}

// Rows [begin, begin + count) of a batch, no wider than their longest.
inline data::Batch rows_of(const data::Batch& batch, std::int64_t begin, std::int64_t count) {
  const at::Tensor targets = batch.targets.narrow(0, begin, count);
  const at::Tensor counted = targets.ne(data::kNoTarget);
  const std::int64_t width = counted.sum(1).max().item<std::int64_t>();
  return {batch.tokens.narrow(0, begin, count).narrow(1, 0, width).contiguous(),
          targets.narrow(1, 0, width).contiguous(), counted.sum().item<std::int64_t>()};
}

// The batches of each step from a function of its number.
class StepSource final : public data::BatchSource {
 public:
  using Make = std::function<Batches(std::int64_t step)>;
  explicit StepSource(Make make) : make_(std::move(make)) {}
  Batches next_step() override { return make_(step_++); }
  void save(StateWriter& out) const override { out.integer("step", step_); }
  void load(const StateReader& in) override { step_ = in.integer("step"); }
  std::int64_t position() const noexcept { return step_; }

 private:
  Make make_;
  std::int64_t step_ = 0;
};

// Four sequences a step, as micro-batches of unequal target counts.
inline Batches four_micro_batches(std::int64_t step) {
  Batches batches;
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto seed = 4 * static_cast<std::uint64_t>(step) + i;
    batches.push_back(padded_batch({3 + static_cast<std::int64_t>(mix64(seed + 9) % 9)}, seed + 1));
  }
  return batches;
}

// A model whose gradients a test may change after each backward pass: the way to numbers that a tiny model
// does not reach.
class WatchedModel final : public LanguageModel {
 public:
  explicit WatchedModel(LanguageModel& model) : model_(model) {}
  std::function<void(BackwardMode)> after_backward;

  const ModelOptions& options() const noexcept override { return model_.options(); }
  at::Tensor forward_backward(const at::Tensor& tokens, const at::Tensor& targets, double grad_scale,
                              BackwardMode mode, GradSink* sink = nullptr) override {
    at::Tensor loss = model_.forward_backward(tokens, targets, grad_scale, mode, sink);
    if (after_backward) after_backward(mode);
    return loss;
  }
  at::Tensor loss_sum(const at::Tensor& tokens, const at::Tensor& targets) const override {
    return model_.loss_sum(tokens, targets);
  }
  at::Tensor logits(const at::Tensor& tokens) const override { return model_.logits(tokens); }
  at::Tensor next_logits(const at::Tensor& tokens, KvCache& cache) const override {
    return model_.next_logits(tokens, cache);
  }
  std::vector<Parameter*> parameters() override { return model_.parameters(); }
  std::vector<Linear*> linears() override { return model_.linears(); }
  void save(StateWriter& out) const override { model_.save(out); }
  void load(const StateReader& in) override { model_.load(in); }

 private:
  LanguageModel& model_;
};

struct RigOptions {
  std::string method = "full";
  std::string method_yaml;
  TrainOptions train{.steps = 100, .precision = Precision::fp32};
  LrOptions lr{.kind = LrKind::constant};
  double peak_lr = 0.01;
  ModelOptions model = tiny_options();
  std::string optimizer_yaml;
  std::uint64_t seed = 42;
};

struct Rig {
  TinyRun run;
  WatchedModel model;
  LrSchedule lr;
  StepSource source;
  std::unique_ptr<dist::Communicator> solo = dist::make_solo();
  Trainer trainer;

  // Without `comm`: one rank.
  explicit Rig(const RigOptions& options, StepSource::Make batches = four_micro_batches,
               dist::Communicator* comm = nullptr)
      : run(options.method, options.method_yaml, options.model, compute(options), options.train.steps,
            options.optimizer_yaml),
        model(*run.model),
        lr(options.lr, options.peak_lr, options.train.steps),
        source(std::move(batches)),
        trainer(options.train, {model, *run.method, *run.optimizer, lr, source,
                                comm != nullptr ? *comm : *solo, dist::Wire::native}) {
    at::set_num_threads(1);  // of this thread: products this small gain nothing from more
  }

  MemoryState state() const {
    MemoryState saved;
    trainer.save(saved);
    return saved;
  }
  std::vector<StepReport> steps(int count) {
    std::vector<StepReport> reports;
    for (int i = 0; i < count; ++i) reports.push_back(trainer.step());
    return reports;
  }

 private:
  static ComputeOptions compute(const RigOptions& options) {
    ComputeOptions result;
    result.compute_dtype = options.train.compute_dtype();
    result.param_dtype = options.train.param_dtype;
    result.seed = options.seed;
    result.recompute = options.train.recompute;
    return result;
  }
};

inline bool is_counter(const std::string& name) {
  return name.starts_with("trainer/") || name.starts_with("loss_scaler/") || name.starts_with("data/");
}

// The bits of two tensors; NaN equals NaN.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         at::equal(a.contiguous().view({-1}).view(at::kByte), b.contiguous().view({-1}).view(at::kByte));
}

// Every tensor and, unless left out, every number and text.
inline void expect_same_state(const MemoryState& got, const MemoryState& expected,
                              bool with_counters = true) {
  ASSERT_FALSE(expected.tensors.empty());
  ASSERT_EQ(got.tensors.size(), expected.tensors.size());
  for (const auto& [name, value] : expected.tensors) {
    ASSERT_TRUE(got.tensors.contains(name)) << name;
    EXPECT_TRUE(same_bits(got.tensors.at(name), value)) << name;
  }
  const auto without_counters = [with_counters](auto values) {
    if (!with_counters) std::erase_if(values, [](const auto& entry) { return is_counter(entry.first); });
    return values;
  };
  EXPECT_EQ(without_counters(got.integers), without_counters(expected.integers));
  EXPECT_EQ(without_counters(got.reals), without_counters(expected.reals));
  EXPECT_EQ(got.texts, expected.texts);
}

inline void expect_same_report(const StepReport& got, const StepReport& expected) {
  EXPECT_EQ(got.step, expected.step);
  EXPECT_EQ(got.loss, expected.loss) << "step " << expected.step;
  EXPECT_EQ(got.grad_norm, expected.grad_norm) << "step " << expected.step;
  EXPECT_EQ(got.lr, expected.lr);
  EXPECT_EQ(got.target_tokens, expected.target_tokens);
  EXPECT_EQ(got.probe, expected.probe);
  EXPECT_EQ(got.skipped, expected.skipped);
  EXPECT_EQ(got.method.merged, expected.method.merged);
  EXPECT_EQ(got.method.weight_error, expected.method.weight_error);
  EXPECT_EQ(got.method.captured_energy, expected.method.captured_energy);
}

}  // namespace kumiko::test
