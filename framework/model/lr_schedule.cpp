// SPDX-License-Identifier: Apache-2.0
#include "framework/model/lr_schedule.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

constexpr std::array<std::pair<std::string_view, LrKind>, 5> kKinds = {{{"constant", LrKind::constant},
                                                                        {"linear", LrKind::linear},
                                                                        {"cosine", LrKind::cosine},
                                                                        {"wsd", LrKind::wsd},
                                                                        {"plateau", LrKind::plateau}}};

struct Conflict {
  std::string key;
  std::string message;
};

std::int64_t decay_steps(const LrOptions& options, std::int64_t total_steps) {
  return std::llround(options.decay_ratio * static_cast<double>(total_steps));
}

std::optional<Conflict> find_conflict(const LrOptions& options, std::int64_t total_steps) {
  if (options.warmup_steps >= total_steps) {
    return Conflict{"warmup_steps", concat("found ", options.warmup_steps, ", needed fewer than the run's ",
                                           total_steps, " steps")};
  }
  const std::int64_t decay = decay_steps(options, total_steps);
  if (options.kind == LrKind::wsd && options.warmup_steps + decay > total_steps) {
    return Conflict{"decay_ratio", concat("found ", options.decay_ratio, ", which is ", decay,
                                          " steps; with ", options.warmup_steps,
                                          " steps of warm-up that is more than the run's ", total_steps)};
  }
  return std::nullopt;
}

// 1 at progress 0, `floor` from progress 1 on.
double falling_line(double progress, double floor) { return 1.0 - (1.0 - floor) * std::min(progress, 1.0); }

double falling_cosine(double progress, double floor) {
  return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * std::min(progress, 1.0)));
}

}  // namespace

LrOptions LrOptions::parse(const ConfigNode& block) {
  constexpr RealRange kShare{.min = 0.0, .max = 1.0};
  LrOptions options;
  options.kind = block.choice<LrKind>("kind", options.kind, kKinds);
  options.warmup_steps = block.integer("warmup_steps", options.warmup_steps, {.min = 0});
  const auto applies = [&](std::string_view key, bool used) {
    if (!used && block.has(key)) {
      const auto* name =
          std::ranges::find(kKinds, options.kind, &std::pair<std::string_view, LrKind>::second);
      block.fail(key, concat("has no effect with kind '", name->first, "'; remove it"));
    }
    return used;
  };
  const auto share = [&](std::string_view key, double fallback, bool used) {
    return applies(key, used) ? block.real(key, fallback, kShare) : fallback;
  };
  const bool plateau = options.kind == LrKind::plateau;
  options.min_ratio = share("min_ratio", options.min_ratio, options.kind != LrKind::constant);
  options.decay_ratio = share("decay_ratio", options.decay_ratio, options.kind == LrKind::wsd);
  options.factor = share("factor", options.factor, plateau);
  options.threshold = share("threshold", options.threshold, plateau);
  if (applies("patience", plateau))
    options.patience = block.integer("patience", options.patience, {.min = 0});
  return options;
}

void LrOptions::check(std::int64_t total_steps, const ConfigNode& block) const {
  if (const auto conflict = find_conflict(*this, total_steps)) block.fail(conflict->key, conflict->message);
}

LrSchedule::LrSchedule(const LrOptions& options, double peak_lr, std::int64_t total_steps)
    : options_(options), peak_lr_(peak_lr), total_steps_(total_steps) {
  if (const auto conflict = find_conflict(options, total_steps)) {
    throw UsageError("lr_schedule." + conflict->key + ": " + conflict->message);
  }
}

double LrSchedule::at(std::int64_t step) const {
  TORCH_INTERNAL_ASSERT(step >= 0, "step ", step, " has no learning rate");
  if (step < options_.warmup_steps) {
    return peak_lr_ * static_cast<double>(step) / static_cast<double>(options_.warmup_steps);
  }
  // How far `step` is from `begin` to the end of the run; 1 at the end, and for a stretch without length.
  const auto progress = [&](std::int64_t begin) {
    const std::int64_t length = total_steps_ - begin;
    return length <= 0 ? 1.0 : static_cast<double>(step - begin) / static_cast<double>(length);
  };
  switch (options_.kind) {
    case LrKind::constant:
      break;
    case LrKind::linear:
      return peak_lr_ * falling_line(progress(options_.warmup_steps), options_.min_ratio);
    case LrKind::cosine:
      return peak_lr_ * falling_cosine(progress(options_.warmup_steps), options_.min_ratio);
    case LrKind::wsd: {
      const std::int64_t begin = total_steps_ - decay_steps(options_, total_steps_);
      return step < begin ? peak_lr_ : peak_lr_ * falling_line(progress(begin), options_.min_ratio);
    }
    case LrKind::plateau:
      return peak_lr_ * plateau_scale_;
  }
  return peak_lr_;
}

void LrSchedule::observe_eval(double loss) {
  if (options_.kind != LrKind::plateau) return;
  const bool improved =
      std::isfinite(loss) && (!best_loss_ || loss < *best_loss_ - options_.threshold * std::abs(*best_loss_));
  if (improved) {
    best_loss_ = loss;
    bad_evaluations_ = 0;
  } else if (++bad_evaluations_ > options_.patience) {
    plateau_scale_ = std::max(plateau_scale_ * options_.factor, options_.min_ratio);
    bad_evaluations_ = 0;
  }
}

void LrSchedule::save(StateWriter& out) const {
  if (options_.kind != LrKind::plateau) return;
  out.real("scale", plateau_scale_);
  out.integer("has_best_loss", best_loss_ ? 1 : 0);
  out.real("best_loss", best_loss_.value_or(0.0));
  out.integer("bad_evaluations", bad_evaluations_);
}

void LrSchedule::load(const StateReader& in) {
  if (options_.kind != LrKind::plateau) return;
  plateau_scale_ = in.real("scale");
  best_loss_ = in.integer("has_best_loss") != 0 ? std::optional(in.real("best_loss")) : std::nullopt;
  bad_evaluations_ = in.integer("bad_evaluations");
}

}  // namespace kumiko
