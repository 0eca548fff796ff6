// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/batch.hpp"
#include "dist/communicator.hpp"
#include "framework/core/state.hpp"
#include "framework/model/language_model.hpp"
#include "framework/model/lr_schedule.hpp"
#include "framework/model/method.hpp"
#include "framework/model/optimizer.hpp"
#include "framework/train/loss_scaler.hpp"
#include "framework/train/train_options.hpp"

namespace kumiko {

struct StepReport {
  std::int64_t step = 0;             // the step that was taken, from 0
  double loss = 0.0;                 // mean over the step's target tokens, before the update
  std::int64_t target_tokens = 0;    // over all ranks
  double grad_norm = 0.0;            // before clipping; 0 without an update
  double lr = 0.0;
  bool probe = false;
  bool update = false;               // besides a probe, or without one
  double probe_seconds = 0.0;        // of the probe's passes and what the method made of them
  bool skipped = false;              // non-finite: nothing moved, or, with updates by layer, nothing from there on
  MethodReport method;
};

// Takes steps: the only place that counts them. Reads top to bottom like the algorithm.
class Trainer {
 public:
  struct Parts {                     // borrowed
    LanguageModel& model;
    Method& method;
    Optimizer& optimizer;
    LrSchedule& lr;
    data::BatchSource& batches;
    dist::Communicator& comm;
    dist::Wire wire;
  };
  Trainer(const TrainOptions& options, Parts parts);

  // One optimizer step or one probe. Throws DivergedError after max_non_finite_steps skipped steps in a row.
  StepReport step();
  std::int64_t next_step() const noexcept { return step_; }
  std::int64_t tokens_seen() const noexcept { return tokens_; }
  std::int64_t gradient_nbytes() const noexcept { return gradient_bytes_; }   // peak so far

  void save(StateWriter& out) const;   // model, method, optimizer, schedule, data position, counters
  void load(const StateReader& in);

 private:
  using Body = std::function<void(const data::Batch&)>;
  // Runs `body`, which adds to `sums`, over the micro-batches; with `deterministic` the sums are those of a binary tree that
  // halves the range, so that its upper part may as well lie between ranks.
  void for_each_micro_batch(std::span<const data::Batch> batches, std::vector<at::Tensor>& sums, const Body& body) const;
  void reduce(std::vector<at::Tensor>& sums);
  void probe(const StepPlan& plan, std::span<const data::Batch> batches, StepReport& report);
  void update(std::span<const data::Batch> batches, StepReport& report);
  void update_by_layer(std::span<const data::Batch> batches, StepReport& report);
  void guard(StepReport& report, bool finite, const std::string& where = "");
  GradBuffer& bound_gradients();   // made where there are none
  void unbind_gradients();

  TrainOptions options_;
  Parts parts_;
  std::optional<GradBuffer> grads_;   // none before the first update, and with updates by layer of a step's only micro-batch
  std::int64_t gradient_bytes_ = 0;
  LossScaler scaler_;
  std::int64_t step_ = 0;
  std::int64_t tokens_ = 0;
  std::int64_t non_finite_steps_ = 0;
};

}  // namespace kumiko
