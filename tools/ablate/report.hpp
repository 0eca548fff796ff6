// SPDX-License-Identifier: Apache-2.0
// Runs side by side: the figures of the table, and what the page shows besides.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/ablate/results.hpp"
#include "tools/ablate/statistics.hpp"

namespace kumiko::tools {

struct FailedRun {
  std::string run;  // "loqt/lr-0.01/seed-2"
  Failure failure;
};

// All about one variant: the runs that the table reports, at the learning rate chosen.
struct VariantReport {
  std::string name;
  std::string recipe;              // of one of the runs, for what it differs in
  int planned = 0;                 // runs that the table wants of it
  std::string lr;                  // of the point chosen; the recipe's without a sweep
  std::vector<std::string> edges;  // keys for which the best point is the first or last tried
  std::string measured_on;         // shard patterns of the perplexities
  std::string pending;             // why there is no figure yet
  std::vector<RunResult> runs;     // finished ones of the chosen point, by seed
  std::vector<RunResult> shown;    // whose curves are drawn
};

struct Row {
  std::string variant;
  bool is_baseline = false;
  int finished = 0, planned = 0;
  std::string lr;
  std::string note;     // "best lr at the edge", "1 of 3 runs failed", ...
  std::string differs;  // keys that differ from the baseline's recipe
  Estimate ppl, published;
  Estimate difference;  // to the baseline, over seeds that both have; n 0: none
  std::int64_t parameters = 0, trained_parameters = 0;
  std::int64_t paper_bytes = 0, plan_bytes = 0, peak_bytes = 0;  // peak: the greatest
  double tokens_per_s = 0.0;                                     // mean
  std::optional<double> refresh_seconds, refresh_share;          // means
  std::int64_t merges = 0;                                       // greatest
};

struct Report {
  std::string title;
  std::string baseline;
  std::string measured_on;           // "data.validation shards/val-*.h5"
  std::string curves_on;             // what evaluations during training were measured on
  std::vector<std::string> remarks;  // about fairness: shown above the table
  std::vector<std::pair<std::string, std::string>> facts;  // what was run: name, value
  std::vector<VariantReport> variants;
  std::vector<FailedRun> failures;
  std::string sweep_text;  // the sweep file or the recipes
};

// One row a variant, in order. The perplexity of a run is that of a later evaluation where there is one.
std::vector<Row> make_rows(const Report& report);

std::string to_markdown(const Report& report);
std::string to_csv(const Report& report);
std::string to_html(const Report& report);  // one file: no script, no request

// table.md, table.csv and report.html, each whole or as it was. Throws FileError.
void write_report(const std::filesystem::path& folder, const Report& report);

}  // namespace kumiko::tools
