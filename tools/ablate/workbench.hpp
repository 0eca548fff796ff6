// SPDX-License-Identifier: Apache-2.0
// Runs what a plan still lacks, and keeps the report beside it up to date.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "tools/ablate/child.hpp"
#include "tools/ablate/plan.hpp"
#include "tools/ablate/report.hpp"

namespace kumiko::tools {

struct WorkbenchResult {
  bool stopped = false;                    // as asked, before all was done: the whole or single runs
  std::size_t finished = 0, planned = 0;   // runs
  std::optional<FailedRun> first_failure;  // in the order they happened, of this start or an earlier one
};

// One child process a run. A run of which the folder says that it is finished is not started again, nor one
// that diverged: that is a result. Anything else goes on where its checkpoint is, once: one that ends unfinished
// without a failure (someone stopped it alone) waits for the next command.
class Workbench {
 public:
  // The plan is borrowed; its output folder is this process's alone. `jobs` children at once.
  Workbench(const Plan& plan, int jobs);

  // Polls StopSignals: at a stop the children save checkpoints and end, and nothing more is started.
  WorkbenchResult run();

 private:
  enum class State { waiting, running, stopped, finished, failed };  // stopped: not started again by this process
  struct Run {
    const PlannedRun* planned = nullptr;
    State state = State::waiting;
    RunResult result;
  };
  struct Group {  // a variant
    const PlannedVariant* planned = nullptr;
    std::vector<std::size_t> runs;  // indices into runs_
    std::string validation_digest;  // of the shards as they are now; "" where they are not read
  };
  struct Job {
    std::size_t run = 0;
    bool evaluates = false;
    Child child;
  };

  void look_at_folders();
  bool start_next();
  void start_training(std::size_t index);
  void start_evaluation(std::size_t index);
  void finish(Job& job);
  void pass_on_signals();
  void finish_training(Run& run, const std::optional<Failure>& failure);
  void finish_evaluation(Run& run, const std::optional<Failure>& failure, const std::string& output);
  void fail(Run& run, const Failure& failure);
  void settle(Run& run);
  void say(const Run& run, const std::string& what, double seconds);
  void publish();
  bool is_measured(const Group& group, const RunResult& run) const;  // on the shards as they are now
  bool wants_evaluation(const Run& run) const;
  bool is_done(const Run& run) const;
  std::optional<std::size_t> chosen_point(const Group& group) const;  // into the variant's points
  const Group& group_of(const Run& run) const;
  std::string pending_of(const Group& group, bool chosen) const;
  VariantReport report_of(const Group& group) const;
  Report make_report() const;

  const Plan& plan_;
  int jobs_;
  std::vector<Run> runs_;  // in the order they are started: by seed, then by variant
  std::vector<Group> groups_;
  std::list<Job> active_;
  bool stopping_ = false;
  std::optional<FailedRun> first_failure_;
  std::string report_problem_;
  double train_seconds_ = 0.0;
  int trained_ = 0;
};

}  // namespace kumiko::tools
