// SPDX-License-Identifier: Apache-2.0
#include "tools/commands/report.hpp"

#include <algorithm>
#include <iostream>
#include <memory>
#include <set>

#include <CLI/CLI.hpp>

#include "framework/core/config.hpp"
#include "framework/core/config_tree.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/format.hpp"
#include "framework/core/words.hpp"
#include "tools/ablate/describe.hpp"
#include "tools/ablate/merge.hpp"
#include "tools/ablate/plan.hpp"
#include "tools/ablate/report.hpp"

namespace kumiko::tools {
namespace {

struct ReportFlags {
  std::vector<std::string> runs;
  std::string output = ".";
  std::string baseline;
};

std::string value_at(const std::string& recipe, std::string_view key) {
  const ConfigTree tree = parse_config_tree(recipe, "recipe.yaml");
  const ConfigTree* value = find_value(tree, key);
  return value == nullptr ? "" : to_flow_yaml(*value);
}

std::string validation_of(const std::string& recipe) {
  return join_patterns(ConfigNode::parse_text(recipe, "recipe.yaml").child("data").texts("validation", {}));
}

std::string shards_of(const RunResult& run) {
  return run.evaluated ? run.evaluated_on : validation_of(run.recipe);
}

RunResult read(const std::string& path) {
  RunResult run = read_run(path);
  KUMIKO_EXPECTS(!run.recipe.empty(), UsageError, "'", path,
                 "' is no run folder: it has no recipe.yaml; give folders that 'kumiko train' wrote");
  run.seed = parse_integer(value_at(run.recipe, "train.seed")).value_or(0);
  return run;
}

using Parts = std::vector<std::string>;

// Of the folder, without a last one that only tells the seed.
Parts parts_of(const RunResult& run) {
  Parts parts;
  for (const auto& part : std::filesystem::weakly_canonical(run.folder)) parts.push_back(part.string());
  if (parts.size() > 1 && parts.back() == concat("seed-", run.seed)) parts.pop_back();
  return parts;
}

// Names variants by their folders, from the first part in which these differ.
void name_variants(Report& report) {
  std::vector<Parts> all;
  std::size_t shortest = std::string::npos;
  for (const VariantReport& variant : report.variants) {
    all.push_back(parts_of(variant.shown.front()));
    shortest = std::min(shortest, all.back().size());
  }
  std::size_t common = 0;
  while (common + 1 < shortest &&
         std::ranges::all_of(all, [&](const Parts& parts) { return parts[common] == all.front()[common]; }))
    ++common;
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t p = common; p < all[i].size(); ++p)
      report.variants[i].name += (p == common ? "" : "/") + all[i][p];
  }
}

// Runs of one recipe up to the seed are one variant.
void add_run(Report& report, RunResult run) {
  const auto same = [&](const VariantReport& variant) {
    const bool other_seed =
        std::ranges::none_of(variant.shown, [&](const RunResult& one) { return one.seed == run.seed; });
    return other_seed && variant.measured_on == shards_of(run) && describe_difference(variant.recipe, run.recipe).empty();
  };
  auto found = std::ranges::find_if(report.variants, same);
  if (found == report.variants.end()) {
    VariantReport variant;
    variant.recipe = run.recipe;
    variant.lr = learning_rate_of(run.recipe);
    variant.measured_on = shards_of(run);
    report.variants.push_back(std::move(variant));
    found = report.variants.end() - 1;
  }
  ++found->planned;
  found->shown.push_back(run);
  if (run.failure) report.failures.push_back({run.folder.string(), *run.failure});
  if (run.finished && (run.own || run.evaluated)) {
    found->runs.push_back(std::move(run));
  } else if (has_diverged(run)) {
    report.failures.push_back({run.folder.string(),
                               {static_cast<int>(ExitCode::diverged), "diverged: its perplexity at the end is not finite",
                                run.folder / "metrics.jsonl"}});
    found->pending = "some runs diverged";
  } else {
    found->pending = "some runs are not finished";
  }
}

void make_report(const ReportFlags& flags) {
  Report report;
  report.title = "Report";
  std::set<std::filesystem::path> seen;
  for (const auto& path : flags.runs) {
    KUMIKO_EXPECTS(seen.insert(std::filesystem::weakly_canonical(path)).second, UsageError, "'", path,
                   "' is given twice");
    RunResult run = read(path);
    add_run(report, std::move(run));
  }
  name_variants(report);
  std::vector<std::string> names;
  for (const VariantReport& variant : report.variants) names.push_back(variant.name);
  report.baseline = flags.baseline.empty() ? names.front() : flags.baseline;
  KUMIKO_EXPECTS(std::ranges::find(names, report.baseline) != names.end(), UsageError,
                 "no variant is named '", report.baseline, "'; known: ", join_words(names));
  report.measured_on = join_words(measured_on(report));
  report.curves_on = report.measured_on;
  report.remarks = fairness_remarks(report, {});
  report.facts = facts_of(report);
  try {
    std::filesystem::create_directories(flags.output);
    write_report(flags.output, report);
  } catch (const std::exception& error) {
    throw UsageError(concat("cannot write the report: ", error.what(), "; choose another --output"));
  }
  std::cout << to_markdown(report)
            << "\npage: " << (std::filesystem::path(flags.output) / "report.html").string() << "\n";
}

}  // namespace

void add_report(CLI::App& app) {
  auto flags = std::make_shared<ReportFlags>();
  CLI::App* command = app.add_subcommand(
      "report", "table and page of any run folders; runs that differ in the seed only are one variant");
  command->add_option("runs", flags->runs, "run folders")->required();
  command->add_option("-o,--output", flags->output, "folder for table.md, table.csv and report.html")
      ->capture_default_str();
  command->add_option("--baseline", flags->baseline,
                      "name of the variant that differences are taken to (default: the first)");
  command->callback([flags] { make_report(*flags); });
}

}  // namespace kumiko::tools
