// SPDX-License-Identifier: Apache-2.0
#include "tools/commands/ablate.hpp"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <thread>

#include <CLI/CLI.hpp>

#include "data/shard_reader.hpp"
#include "dist/communicator.hpp"
#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/format.hpp"
#include "framework/core/log.hpp"
#include "framework/core/signals.hpp"
#include "framework/train/run_folder.hpp"
#include "tools/ablate/plan.hpp"
#include "tools/ablate/splits.hpp"
#include "tools/ablate/workbench.hpp"
#include "tools/auto_prepare.hpp"
#include "tools/machine_facts.hpp"

namespace kumiko::tools {
namespace {

struct AblateFlags {
  std::string sweep;
  std::vector<std::string> overrides;
  int jobs = 1;
  bool dry_run = false;
};

bool is_there(const std::vector<std::string>& patterns) {
  try {
    data::expand_shards(patterns);
    return true;
  } catch (const DataError&) {
    return false;
  }
}

// The vocabulary of the shards that are there; each folder is looked at once.
Vocabulary shard_vocabulary() {
  auto known = std::make_shared<std::map<std::vector<std::string>, std::int64_t>>();
  return [known](const ConfigNode& data) -> std::int64_t {
    const auto patterns = data.texts("train", {});
    const auto [entry, fresh] = known->emplace(patterns, 0);
    if (fresh && is_there(patterns))
      entry->second = data::ShardReader(data::expand_shards(patterns).front()).info().vocab_size;
    return entry->second;
  };
}

// Makes the shards that are not there, once for all runs. Whether some were made.
bool prepare_data(const Plan& plan) {
  bool made = false;
  for (const PlannedVariant& variant : plan.variants) {
    const ConfigNode data_node = ConfigNode::parse_text(variant.recipe, variant.variant->name).child("data");
    const data::DataOptions data = data::DataOptions::parse(data_node);
    const auto prepare = AutoPrepare::parse(data_node);
    if (!prepare || !shards_missing(data)) continue;
    prepare_missing_shards(*prepare, data);
    made = true;
  }
  return made;
}

// Before anything is started: what the runs will read is there, or will be made.
void check_data(const Plan& plan) {
  std::set<std::vector<Split>> checked;
  for (const PlannedVariant& variant : plan.variants) {
    const ConfigNode data_node = ConfigNode::parse_text(variant.recipe, variant.variant->name).child("data");
    const auto prepare = AutoPrepare::parse(data_node);
    const bool to_be_made = prepare && !is_there(data_node.texts("train", {}));
    KUMIKO_EXPECTS(!plan.chooses_lr || !to_be_made || prepare->selection > 0.0, UsageError,
                   plan.sweep->file.string(), ": variant '", variant.variant->name,
                   "' chooses its learning rate, and data.prepare makes no shards to choose on; set "
                   "data.prepare.selection: 0.05, say");
    if (to_be_made) continue;
    Split train{"data.train", data::expand_shards(data_node.texts("train", {}))};
    Split validation{"data.validation", data::expand_shards(variant.validation)};
    KUMIKO_EXPECTS(
        !plan.chooses_lr || is_there(variant.selection), DataError, "variant '", variant.variant->name,
        "' chooses its learning rate on a split that the table is not reported on, and no shard matches '",
        variant.selection.front(),
        "'; make them with 'kumiko prepare --selection 0.05' or data.prepare.selection in a new folder, or "
        "name others with the sweep's key 'selection'");
    std::vector<Split> splits = {std::move(train), std::move(validation)};
    if (plan.chooses_lr) splits.push_back({"the selection shards", data::expand_shards(variant.selection)});
    if (checked.insert(splits).second) require_disjoint(splits, concat("variant '", variant.variant->name, "'"));
  }
}

std::int64_t threads_of_a_run(int jobs) {
  return std::max<std::int64_t>(1, std::thread::hardware_concurrency() / static_cast<unsigned>(jobs));
}

void warn_of_memory(const Plan& plan, int jobs) {
  std::int64_t largest = 0;
  for (const PlannedVariant& variant : plan.variants) largest = std::max(largest, variant.plan_bytes);
  std::ostringstream text;
  text << std::ifstream("/proc/meminfo").rdbuf();
  const std::string field = field_of(text.str(), "MemAvailable");  // "123456 kB"
  const auto kib = parse_integer(field.substr(0, field.find(' ')));
  if (!kib || largest <= *kib * 1024 / jobs) return;
  log::warning(concat(jobs, jobs == 1 ? " run needs " : " runs at once need ", format_bytes(largest),
                      jobs == 1 ? "" : " each", " by the memory plan, and ", format_bytes(*kib * 1024),
                      " are free; give a smaller -j or micro-batch"));
}

void print_plan(const Plan& plan, int jobs) {
  std::cout << plan.run_count() << " runs (" << plan.variants.size() << " variants, "
            << plan.sweep->seeds.size() << " seeds), " << jobs << " at once, in "
            << plan.sweep->output_dir.string() << "\n";
  if (plan.chooses_lr)
    std::cout << "learning rates are chosen on " << plan.variants.front().selection.front() << "\n";
  const auto baseline = std::ranges::find(plan.variants, plan.sweep->baseline,
                                          [](const PlannedVariant& v) { return v.variant->name; });
  for (const PlannedVariant& variant : plan.variants) {
    std::cout << variant.variant->name << (variant.variant == baseline->variant ? " (baseline)" : "") << ": "
              << variant.variant->points.size()
              << (variant.variant->points.size() == 1 ? " learning rate" : " learning rates")
              << ", memory plan " << format_bytes(variant.plan_bytes);
    const std::string differs = describe_difference(baseline->recipe, variant.recipe);
    std::cout << (differs.empty() ? "\n" : "\n    " + differs + "\n");
  }
}

void ablate(const AblateFlags& flags) {
  KUMIKO_EXPECTS(!dist::launched_by_mpi(), UsageError,
                 "ablate starts its runs itself, each as one process; give it -j instead of mpirun");
  const Sweep sweep = Sweep::parse_file(flags.sweep, flags.overrides);
  const std::int64_t threads = threads_of_a_run(flags.jobs);
  Plan plan = make_plan(sweep, shard_vocabulary(), threads);
  warn_of_memory(plan, flags.jobs);
  if (flags.dry_run) return print_plan(plan, flags.jobs);
  check_unchanged(plan);
  check_data(plan);
  const RunFolder folder(sweep.output_dir);
  if (prepare_data(plan)) plan = make_plan(sweep, shard_vocabulary(), threads);
  check_data(plan);
  try {
    write_file_durably(sweep.output_dir / "sweep.yaml", sweep.text);
  } catch (const FileError& error) {
    throw UsageError(
        concat(error.what(), "; make room or choose another output_dir; finished runs are kept"));
  }
  StopSignals::install();
  const WorkbenchResult result = Workbench(plan, flags.jobs).run();
  std::cout << "runs finished: " << result.finished << " of " << result.planned << "\n"
            << "table: " << (sweep.output_dir / "table.md").string() << "\n"
            << "page: " << (sweep.output_dir / "report.html").string() << "\n";
  if (result.stopped) std::cout << "stopped as asked; the same command goes on\n";
  if (result.first_failure) {
    const FailedRun& failed = *result.first_failure;
    throw Error(static_cast<ExitCode>(failed.failure.exit_code),
                concat("run ", failed.run, " failed: ", failed.failure.reason, "; see ",
                       failed.failure.log.string()));
  }
}

}  // namespace

void add_ablate(CLI::App& app) {
  auto flags = std::make_shared<AblateFlags>();
  CLI::App* command = app.add_subcommand(
      "ablate", "run a sweep of variants and seeds and compare them; goes on where it stopped");
  command->add_option("sweep", flags->sweep, "sweep, a YAML file")->required();
  command->add_option("overrides", flags->overrides,
                      "changes of every recipe, or of the sweep's own keys: a.b=value ...");
  command->add_option("-j,--jobs", flags->jobs, "runs at once; each gets its share of the cores")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  command->add_flag("--dry-run", flags->dry_run, "check every variant, print what would be run, and stop");
  command->callback([flags] { ablate(*flags); });
}

}  // namespace kumiko::tools
