// SPDX-License-Identifier: Apache-2.0
#include "lowrank/merge_schedule.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko::lowrank {
namespace {

// 0, then gap(0), gap(1), ... while within `last_step`.
std::vector<std::int64_t> by_gaps(const std::function<std::int64_t(std::int64_t)>& gap, std::int64_t last_step) {
  std::vector<std::int64_t> steps = {0};
  for (std::int64_t k = 0;; ++k) {
    const std::int64_t next = steps.back() + std::max<std::int64_t>(1, gap(k));
    if (next > last_step) return steps;
    steps.push_back(next);
  }
}

std::vector<std::int64_t> within_run(const std::function<std::int64_t(std::int64_t)>& gap, std::int64_t total_steps, ScheduleEnd end) {
  if (end == ScheduleEnd::open) return by_gaps(gap, total_steps - 1);
  std::vector<std::int64_t> steps = by_gaps(gap, total_steps);
  while (steps.size() > 1 && steps.back() + gap(static_cast<std::int64_t>(steps.size()) - 1) >= total_steps) steps.pop_back();
  return steps;
}

std::function<std::int64_t(std::int64_t)> exponential_gap(std::int64_t tau, double psi, std::int64_t max_gap) {
  return [=](std::int64_t k) {
    if (k == 0) return std::min(tau, max_gap);
    const double grown = std::floor(std::pow(psi, static_cast<double>(k)));
    const double gap = static_cast<double>(tau) + grown;
    return gap >= static_cast<double>(max_gap) ? max_gap : static_cast<std::int64_t>(gap);
  };
}

}  // namespace

MergeSchedule MergeSchedule::every(std::int64_t tau, std::int64_t total_steps, ScheduleEnd end) {
  return MergeSchedule(within_run([=](std::int64_t) { return tau; }, total_steps, end));
}

MergeSchedule MergeSchedule::linear(std::int64_t tau, std::int64_t increment, std::int64_t total_steps, ScheduleEnd end) {
  return MergeSchedule(within_run([=](std::int64_t k) { return tau + k * increment; }, total_steps, end));
}

MergeSchedule MergeSchedule::exponential(std::int64_t tau, double psi, std::int64_t max_gap, std::int64_t total_steps,
                                         ScheduleEnd end) {
  return MergeSchedule(within_run(exponential_gap(tau, psi, max_gap), total_steps, end));
}

MergeSchedule MergeSchedule::at_steps(std::vector<std::int64_t> steps, std::int64_t total_steps, ScheduleEnd end) {
  steps.push_back(0);
  std::sort(steps.begin(), steps.end());
  steps.erase(std::unique(steps.begin(), steps.end()), steps.end());
  const std::int64_t last_step = end == ScheduleEnd::open ? total_steps - 1 : total_steps - 2;
  std::erase_if(steps, [&](std::int64_t step) { return step > 0 && step > last_step; });
  return MergeSchedule(std::move(steps));
}

std::vector<std::int64_t> MergeSchedule::exponential_steps(std::int64_t tau, double psi, std::int64_t max_gap, std::int64_t last_step) {
  return by_gaps(exponential_gap(tau, psi, max_gap), last_step);
}

MergeSchedule MergeSchedule::parse(const ConfigNode& node, std::int64_t total_steps, const ScheduleDefaults& defaults) {
  constexpr std::array<std::pair<std::string_view, ScheduleKind>, 4> kKinds = {{{"exponential", ScheduleKind::exponential},
                                                                               {"static", ScheduleKind::fixed},
                                                                               {"linear", ScheduleKind::linear},
                                                                               {"at_steps", ScheduleKind::at_steps}}};
  constexpr std::int64_t kMaxStep = std::int64_t{1} << 40;
  const auto tau = [&] { return node.integer("tau", defaults.tau, {1, kMaxStep}); };
  switch (node.choice("kind", defaults.kind, kKinds)) {
    case ScheduleKind::fixed: return every(tau(), total_steps, defaults.end);
    case ScheduleKind::linear: {
      const std::int64_t first = tau();
      return linear(first, node.integer("increment", 10, {0, kMaxStep}), total_steps, defaults.end);
    }
    case ScheduleKind::at_steps: return at_steps(node.integers("steps", {}, {0, kMaxStep}), total_steps, defaults.end);
    case ScheduleKind::exponential: break;
  }
  const std::int64_t first = tau();
  const double psi = node.real("psi", 1.2, {1.0, 100.0});
  return exponential(first, psi, node.integer("max_gap", 2500, {1, kMaxStep}), total_steps, defaults.end);
}

bool MergeSchedule::due(std::int64_t step) const noexcept { return std::binary_search(steps_.begin(), steps_.end(), step); }

std::int64_t MergeSchedule::count_before(std::int64_t step) const noexcept {
  return std::lower_bound(steps_.begin(), steps_.end(), step) - steps_.begin();
}

std::int64_t MergeSchedule::next_after(std::int64_t step) const noexcept {
  const auto found = std::upper_bound(steps_.begin(), steps_.end(), step);
  return found == steps_.end() ? -1 : *found;
}

}  // namespace kumiko::lowrank
