// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/report.hpp"

#include <algorithm>
#include <map>

#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/words.hpp"
#include "tools/ablate/format.hpp"
#include "tools/ablate/plan.hpp"

namespace kumiko::tools {
namespace {

std::optional<Perplexity> reported(const RunResult& run) { return run.evaluated ? run.evaluated : run.own; }

std::map<std::int64_t, double> by_seed(const VariantReport& variant) {
  std::map<std::int64_t, double> values;
  for (const RunResult& run : variant.runs) {
    if (const auto ppl = reported(run)) values[run.seed] = ppl->ppl;
  }
  return values;
}

Estimate paired_difference(const VariantReport& variant, const VariantReport& baseline) {
  const auto base = by_seed(baseline);
  std::vector<double> differences;
  for (const auto& [seed, ppl] : by_seed(variant)) {
    if (const auto found = base.find(seed); found != base.end()) differences.push_back(ppl - found->second);
  }
  return estimate(differences);
}

template <class Get>
std::optional<double> mean_of(const std::vector<RunResult>& runs, const Get& get) {
  std::vector<double> values;
  for (const RunResult& run : runs) {
    if (const std::optional<double> value = get(run)) values.push_back(*value);
  }
  return values.empty() ? std::nullopt : std::optional(estimate(values).mean);
}

bool has_learnt_nothing(const RunResult& run) {
  const auto ppl = reported(run);
  return ppl && run.unigram > 0.0 && !(ppl->ppl < run.unigram);
}

std::string note_of(const VariantReport& variant) {
  std::vector<std::string> notes;
  const auto lost = std::ranges::count_if(variant.runs, has_learnt_nothing);
  if (lost > 0)
    notes.push_back(
        concat(lost, lost == 1 ? " run is" : " runs are", " no better than guessing by token frequency"));
  if (!variant.edges.empty()) notes.push_back(concat("best at the edge (", join_words(variant.edges), ")"));
  if (!variant.pending.empty()) notes.push_back(variant.pending);
  std::string text;
  for (const auto& note : notes) text += (text.empty() ? "" : "; ") + note;
  return text;
}

Row make_row(const VariantReport& variant, const VariantReport* baseline) {
  Row row;
  row.variant = variant.name;
  row.is_baseline = baseline == &variant;
  row.finished = static_cast<int>(variant.runs.size());
  row.planned = variant.planned;
  row.lr = variant.lr;
  row.note = note_of(variant);
  std::vector<double> ppl, published, speed;
  for (const RunResult& run : variant.runs) {
    if (const auto value = reported(run)) {
      ppl.push_back(value->ppl);
      published.push_back(value->published_convention);
    }
    if (run.tokens_per_s > 0.0) speed.push_back(run.tokens_per_s);
    row.parameters = std::max(row.parameters, run.parameters);
    row.trained_parameters = std::max(row.trained_parameters, run.trained_parameters);
    row.paper_bytes = std::max(row.paper_bytes, run.paper_bytes);
    row.plan_bytes = std::max(row.plan_bytes, run.plan_bytes);
    row.peak_bytes = std::max(row.peak_bytes, run.peak_bytes);
    row.merges = std::max(row.merges, run.merges);
  }
  row.ppl = estimate(ppl);
  row.published = estimate(published);
  row.tokens_per_s = estimate(speed).mean;
  row.refresh_seconds = mean_of(variant.runs, [](const RunResult& run) { return run.refresh_seconds; });
  row.refresh_share = mean_of(variant.runs, [](const RunResult& run) { return run.refresh_share; });
  if (baseline != nullptr && baseline != &variant) {
    row.difference = paired_difference(variant, *baseline);
    if (!baseline->recipe.empty() && !variant.recipe.empty())
      row.differs = describe_difference(baseline->recipe, variant.recipe);
  }
  return row;
}

}  // namespace

std::vector<Row> make_rows(const Report& report) {
  const auto found = std::ranges::find(report.variants, report.baseline, &VariantReport::name);
  const VariantReport* baseline = found == report.variants.end() ? nullptr : &*found;
  std::vector<Row> rows;
  for (const VariantReport& variant : report.variants) rows.push_back(make_row(variant, baseline));
  return rows;
}

void write_report(const std::filesystem::path& folder, const Report& report) {
  write_file_durably(folder / "table.md", to_markdown(report));
  write_file_durably(folder / "table.csv", to_csv(report));
  write_file_durably(folder / "report.html", to_html(report));
}

}  // namespace kumiko::tools
