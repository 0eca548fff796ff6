// SPDX-License-Identifier: Apache-2.0
// The learning rate of each step. Every kind warms up linearly from 0 at step 0 to the peak at `warmup_steps`.
#pragma once

#include <cstdint>
#include <optional>

#include "framework/core/config.hpp"
#include "framework/core/state.hpp"

namespace kumiko {

enum class LrKind { constant, linear, cosine, wsd, plateau };

struct LrOptions {
  LrKind kind = LrKind::cosine;
  std::int64_t warmup_steps = 0;
  double min_ratio = 0.1;           // the lowest rate as a share of the peak; all kinds but constant
  double decay_ratio = 0.2;         // wsd: the share of all steps, the last ones, over which the rate falls linearly
  double factor = 0.5;              // plateau: what the rate is multiplied by when evaluations no longer improve
  std::int64_t patience = 2;        // plateau: evaluations without improvement that are let pass
  double threshold = 1e-3;          // plateau: an improvement is a loss below best * (1 - threshold)

  // Reads kind, warmup_steps and the keys of that kind; a key of another kind is a UsageError that says so.
  static LrOptions parse(const ConfigNode& block);

  // Throws UsageError at the place in `block` where the options do not fit a run of `total_steps`.
  void check(std::int64_t total_steps, const ConfigNode& block) const;
};

class LrSchedule {
 public:
  // Throws UsageError where the options do not fit: the warm-up must end before the last step, and before wsd's decay.
  LrSchedule(const LrOptions& options, double peak_lr, std::int64_t total_steps);

  // Step 0 is the first. linear, cosine and wsd reach peak * min_ratio at `total_steps` and stay there.
  double at(std::int64_t step) const;

  // plateau: after more than `patience` evaluations in a row without improvement the rate falls by `factor`. A loss that
  // is not finite is no improvement. Other kinds ignore it.
  void observe_eval(double loss);

  // State exists for plateau only; the other kinds write and read nothing.
  void save(StateWriter& out) const;
  void load(const StateReader& in);

 private:
  LrOptions options_;
  double peak_lr_;
  std::int64_t total_steps_;
  double plateau_scale_ = 1.0;
  std::optional<double> best_loss_;
  std::int64_t bad_evaluations_ = 0;
};

}  // namespace kumiko
