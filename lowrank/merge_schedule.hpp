// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace kumiko {
class ConfigNode;
}

namespace kumiko::lowrank {

enum class ScheduleKind { exponential, fixed, linear, at_steps };

// guarded: a merge whose following gap would not end within the run is not due (LoQT's published code): what it folds in and
// starts anew could not be trained on. open: every one within the run is due.
enum class ScheduleEnd { guarded, open };

// What stands for absent keys of the block `schedule`, and how the method ends it.
struct ScheduleDefaults {
  ScheduleKind kind = ScheduleKind::exponential;
  std::int64_t tau = 100;
  ScheduleEnd end = ScheduleEnd::guarded;
};

// When a low-rank method merges: the only place that knows. In steps, never micro-batches. Step 0 fits the first basis.
class MergeSchedule {
 public:
  // 0, tau, then gaps of tau.
  static MergeSchedule every(std::int64_t tau, std::int64_t total_steps, ScheduleEnd end = ScheduleEnd::guarded);
  // 0, tau, then each gap longer by `increment`.
  static MergeSchedule linear(std::int64_t tau, std::int64_t increment, std::int64_t total_steps,
                              ScheduleEnd end = ScheduleEnd::guarded);
  // 0, tau, then gaps min(tau + floor(psi^k), max_gap), k = 1, 2, ... (LoQT 3.5 as its code has it).
  static MergeSchedule exponential(std::int64_t tau, double psi, std::int64_t max_gap, std::int64_t total_steps,
                                   ScheduleEnd end = ScheduleEnd::guarded);
  static MergeSchedule at_steps(std::vector<std::int64_t> steps, std::int64_t total_steps,
                                ScheduleEnd end = ScheduleEnd::guarded);
  // The block `schedule`: kind: exponential {tau, psi, max_gap} | static {tau} | linear {tau, increment} | at_steps {steps}.
  static MergeSchedule parse(const ConfigNode& node, std::int64_t total_steps, const ScheduleDefaults& defaults = {});

  // Of explicit steps that are guarded only those at or beyond the last step of the run are not due.
  bool due(std::int64_t step) const noexcept;
  std::int64_t next_after(std::int64_t step) const noexcept;   // -1: none left
  std::int64_t count_before(std::int64_t step) const noexcept;   // of due steps
  const std::vector<std::int64_t>& steps() const noexcept { return steps_; }

  // The unguarded sequence up to and including `last_step`, for tests against published ones.
  static std::vector<std::int64_t> exponential_steps(std::int64_t tau, double psi, std::int64_t max_gap, std::int64_t last_step);

 private:
  explicit MergeSchedule(std::vector<std::int64_t> steps) : steps_(std::move(steps)) {}
  std::vector<std::int64_t> steps_;   // due ones, ascending
};

}  // namespace kumiko::lowrank
