// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "framework/core/error.hpp"
#include "framework/core/words.hpp"
#include "tools/ablate/describe.hpp"
#include "tools/ablate/workbench.hpp"

namespace kumiko::tools {
namespace {

void add_new(std::vector<std::string>& words, const std::string& word) {
  if (std::ranges::find(words, word) == words.end()) words.push_back(word);
}

}  // namespace

std::string Workbench::pending_of(const Group& group, bool chosen) const {
  std::size_t failed = 0;
  std::size_t diverged = 0;
  std::size_t open = 0;
  for (const std::size_t index : group.runs) {
    const std::optional<Failure>& failure = runs_[index].result.failure;
    diverged += failure && failure->exit_code == static_cast<int>(ExitCode::diverged) ? 1 : 0;
    failed += runs_[index].state == State::failed ? 1 : 0;
    open += is_done(runs_[index]) ? 0 : 1;
  }
  std::string text;
  if (failed > 0) text = concat(failed, " of ", group.runs.size(), " runs ", diverged == failed ? "diverged" : "failed");
  if (open > 0) return text + concat(text.empty() ? "" : ", ", open, " to go");
  if (!chosen) return text + ": no learning rate without a failure";
  return text;
}

VariantReport Workbench::report_of(const Group& group) const {
  const Variant& variant = *group.planned->variant;
  VariantReport report;
  report.name = variant.name;
  report.planned = static_cast<int>(plan_.sweep->seeds.size());
  const auto chosen = chosen_point(group);
  report.pending = pending_of(group, chosen.has_value());
  if (chosen) {
    report.lr = variant.points.size() > 1 ? describe_point(variant.lr_sweep, variant.points[*chosen])
                                          : learning_rate_of(group.planned->recipe);
    report.edges = edges_of(variant.lr_sweep, variant.points[*chosen]);
  }
  const std::string& point = variant.points[chosen.value_or(0)].name;
  const auto planned = std::ranges::find(group.planned->runs, point, &PlannedRun::point);
  report.recipe = planned->recipe;
  report.measured_on = join_patterns(group.planned->validation);
  for (const std::size_t index : group.runs) {
    const Run& run = runs_[index];
    if (run.planned->point != point) continue;
    RunResult result = run.result;
    if (!result.losses.empty()) report.shown.push_back(result);
    if (!plan_.chooses_lr) result.evaluated.reset();
    const bool measured = plan_.chooses_lr ? is_measured(group, result) : result.own.has_value();
    if (chosen && result.finished && measured) report.runs.push_back(std::move(result));
  }
  return report;
}

Report Workbench::make_report() const {
  const Sweep& sweep = *plan_.sweep;
  Report report;
  report.title = sweep.file.stem().string();
  report.baseline = sweep.baseline;
  std::vector<std::size_t> tried;
  for (const Group& group : groups_) {
    report.variants.push_back(report_of(group));
    tried.push_back(group.planned->variant->points.size());
  }
  std::vector<std::string> selection;
  for (const Group& group : groups_) add_new(selection, join_patterns(group.planned->selection));
  report.measured_on = join_words(measured_on(report));
  report.curves_on = plan_.chooses_lr ? join_words(selection) : report.measured_on;
  report.remarks = fairness_remarks(report, tried);
  report.facts = facts_of(report);
  std::vector<std::string> seeds;
  for (const std::int64_t seed : sweep.seeds) seeds.push_back(concat(seed));
  report.facts.insert(report.facts.begin(), {{"sweep", sweep.file.string()}, {"seeds", join_words(seeds)}});
  if (plan_.chooses_lr) {
    report.facts.emplace_back("learning rate", concat("chosen by the mean perplexity on ", report.curves_on,
                                                      ", then measured on ", report.measured_on));
  }
  for (const Run& run : runs_) {
    if (run.state == State::failed) {
      report.failures.push_back(
          {concat(run.planned->variant, "/", run.planned->point, "/seed-", run.planned->seed),
           *run.result.failure});
    }
  }
  report.sweep_text = sweep.text;
  return report;
}

}  // namespace kumiko::tools
