// SPDX-License-Identifier: Apache-2.0
// A Trainer in this process over random tokens: for what a command line cannot show.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "framework/model/lr_schedule.hpp"
#include "framework/train/trainer.hpp"
#include "tests/support/tiny_model.hpp"

namespace kumiko::test {

// The step's sequences, cut into micro-batches of `micro`: the same tokens whatever the cut. Tokens follow a noisy cycle, so
// that there is something to learn.
class CycleSource final : public data::BatchSource {
 public:
  CycleSource(std::int64_t global, std::int64_t micro, std::int64_t length, std::int64_t vocab)
      : global_(global), micro_(micro), length_(length), vocab_(vocab) {}

  std::vector<data::Batch> next_step() override {
    at::Tensor stream = at::empty({global_, length_ + 1}, at::kLong);
    auto token = stream.accessor<std::int64_t, 2>();
    for (std::int64_t b = 0; b < global_; ++b) {
      std::uint64_t state = mix64(static_cast<std::uint64_t>(step_ * global_ + b) + 17);
      std::int64_t value = static_cast<std::int64_t>(state % static_cast<std::uint64_t>(vocab_));
      for (std::int64_t t = 0; t <= length_; ++t) {
        token[b][t] = value;
        state = mix64(state + 1);
        value = (state % 4 == 0 ? static_cast<std::int64_t>(state >> 8) & 0xffff : value * 3 + 7) % vocab_;
      }
    }
    ++step_;
    std::vector<data::Batch> batches;
    for (std::int64_t begin = 0; begin < global_; begin += micro_) {
      const at::Tensor rows = stream.narrow(0, begin, micro_);
      batches.push_back({rows.narrow(1, 0, length_).contiguous(), rows.narrow(1, 1, length_).contiguous(), micro_ * length_});
    }
    return batches;
  }
  void save(StateWriter& out) const override { out.integer("step", step_); }
  void load(const StateReader& in) override { step_ = in.integer("step"); }

 private:
  std::int64_t global_, micro_, length_, vocab_;
  std::int64_t step_ = 0;
};

struct TrainedRun {
  TinyRun run;
  LrSchedule lr;
  CycleSource source;
  std::unique_ptr<dist::Communicator> comm = dist::make_solo();
  Trainer trainer;

  static TrainOptions fp32(std::int64_t steps) {
    TrainOptions options;
    options.steps = steps;
    options.precision = Precision::fp32;
    return options;
  }

  TrainedRun(const std::string& method, const std::string& yaml, std::int64_t global, std::int64_t micro, std::int64_t length,
             std::int64_t steps, const ModelOptions& model = tiny_options(), ComputeOptions compute = {}, double peak_lr = 0.01)
      : run(method, yaml, model, compute, steps), lr(LrOptions{LrKind::constant}, peak_lr, steps),
        source(global, micro, length, model.vocab_size),
        trainer(options_for(steps, compute), {*run.model, *run.method, *run.optimizer, lr, source, *comm, dist::Wire::native}) {}

 private:
  static TrainOptions options_for(std::int64_t steps, const ComputeOptions& compute) {
    TrainOptions options = fp32(steps);
    if (compute.compute_dtype == at::kBFloat16) options.precision = Precision::bf16;
    options.recompute = compute.recompute;
    return options;
  }
};

}  // namespace kumiko::test
