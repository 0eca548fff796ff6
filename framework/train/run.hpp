// SPDX-License-Identifier: Apache-2.0
// A whole run: steps, and when due logging, evaluation and checkpoints, until the end or a stop that was asked for.
#pragma once

#include <optional>
#include <string>

#include "framework/train/checkpoint.hpp"
#include "framework/train/evaluate.hpp"
#include "framework/train/metrics.hpp"
#include "framework/train/progress.hpp"
#include "framework/train/run_folder.hpp"
#include "framework/train/tensorboard.hpp"
#include "framework/train/trainer.hpp"

namespace kumiko {

struct RunOptions {
  TrainOptions train;
  EvalOptions eval;
  LogOptions log;
  double flops_per_token = 0.0;       // of training, by the model
  double peak_flops = 0.0;            // of the machine, one rank; 0: no utilisation is reported
};

struct RunSummary {
  bool complete = false;              // all steps taken; false after a stop that was asked for
  std::int64_t first_step = 0;        // steps that earlier processes had taken
  std::int64_t steps = 0;             // taken in all, resumed ones included
  std::int64_t merges = 0;
  std::optional<EvalReport> eval;     // the last
  double tokens_per_s = 0.0;          // of this process's steps, without evaluations and checkpoints
  double seconds = 0.0;               // of this process's run
  std::string checkpoint_problem;     // why the last checkpoint could not be saved; empty when it was
};

// What only rank 0 has.
struct RunRecord {
  RunFolder& folder;
  CheckpointStore& checkpoints;
  CheckpointMeta meta;
  std::string tokenizer;              // model bytes: a checkpoint is enough to evaluate and generate
  MetricsLog& metrics;
  TensorBoardWriter* tensorboard;     // null: off
  Progress& progress;
};

// The tokenizer's model bytes in a run's checkpoint.
std::string tokenizer_bytes(const StateReader& in);

class Run {
 public:
  // `record` is null on ranks other than 0. All are borrowed.
  Run(const RunOptions& options, Trainer& trainer, const Method& method, const LanguageModel& model, LrSchedule& lr,
      data::EvaluationCursor* validation, dist::Communicator& comm, RunRecord* record);

  RunSummary go();

 private:
  struct Requests {
    bool stop = false;
    bool checkpoint = false;
  };
  Requests agree_on_requests();
  void log(const StepReport& report, double step_seconds);
  void evaluate_now();
  void save_now();
  bool due(std::int64_t every) const { return every > 0 && trainer_.next_step() % every == 0; }

  RunOptions options_;
  Trainer& trainer_;
  const Method& method_;
  const LanguageModel& model_;
  LrSchedule& lr_;
  data::EvaluationCursor* validation_;   // null: no validation shards
  dist::Communicator& comm_;
  RunRecord* record_;
  RunSummary summary_;
  bool checkpoint_due_ = false;
  std::int64_t evaluated_step_ = -1;
  double train_seconds_ = 0.0;
  std::int64_t train_tokens_ = 0;
  std::int64_t first_step_ = 0;
};

}  // namespace kumiko
