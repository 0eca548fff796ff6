// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/workbench.hpp"

#include <algorithm>
#include <csignal>
#include <map>
#include <thread>

#include "data/options.hpp"
#include "data/shard_set.hpp"
#include "framework/core/config_tree.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/format.hpp"
#include "framework/core/log.hpp"
#include "framework/core/signals.hpp"
#include "framework/train/recipe_diff.hpp"
#include "tools/ablate/describe.hpp"
#include "tools/ablate/format.hpp"
#include "tools/ablate/merge.hpp"

namespace kumiko::tools {
namespace {

constexpr double kLockSeconds = 10.0;

std::string name_of(const PlannedRun& run) { return concat(run.variant, "/", run.point, "/seed-", run.seed); }

std::string pattern_override(const std::vector<std::string>& patterns) {
  std::string text;
  for (const auto& pattern : patterns) text += (text.empty() ? "" : ", ") + quote_scalar(pattern, false);
  return "data.validation=[" + text + "]";
}

std::int64_t steps_of(const PlannedRun& run) {
  const ConfigTree tree = parse_config_tree(run.recipe, kPlannedRecipe);
  const ConfigTree* steps = find_value(tree, "train.steps");
  return steps == nullptr ? 0 : parse_integer(steps->scalar).value_or(0);
}

// "" where they cannot be read: the evaluation says why.
std::string digest_of(const std::vector<std::string>& patterns) {
  try {
    return data::ShardSet::open(data::expand_shards(patterns)).digest();
  } catch (const DataError&) {
    return "";
  }
}

// Keeps the stored recipe where only the number of threads differs: a run that goes on with the threads it
// had gives the same bits.
void store_recipe(const PlannedRun& run) {
  std::filesystem::create_directories(run.folder);
  const auto file = run.folder / kPlannedRecipe;
  if (std::filesystem::exists(file)) {
    const auto bytes = read_file(file, 1 << 20);
    const std::string_view stored(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const auto differences = compare_recipes(stored, run.recipe);
    if (std::ranges::all_of(differences, [](const auto& d) { return d.key == "train.threads"; })) return;
  }
  write_file_durably(file, run.recipe);
}

}  // namespace

Workbench::Workbench(const Plan& plan, int jobs) : plan_(plan), jobs_(jobs) {
  std::vector<const PlannedRun*> planned;
  std::map<std::vector<std::string>, std::string> digests;
  for (const PlannedVariant& variant : plan.variants) {
    groups_.push_back({&variant, {}, ""});
    if (plan.chooses_lr) {
      const auto [entry, fresh] = digests.emplace(variant.validation, "");
      if (fresh) entry->second = digest_of(variant.validation);
      groups_.back().validation_digest = entry->second;
    }
    for (const PlannedRun& run : variant.runs) planned.push_back(&run);
  }
  const auto& seeds = plan.sweep->seeds;
  const auto place = [&](const PlannedRun* run) {
    return std::ranges::find(seeds, run->seed) - seeds.begin();
  };
  std::ranges::stable_sort(planned, {}, place);
  for (const PlannedRun* run : planned) {
    const auto group =
        std::ranges::find(groups_, run->variant, [](const Group& g) { return g.planned->variant->name; });
    group->runs.push_back(runs_.size());
    runs_.push_back({run, State::waiting, {}});
  }
}

const Workbench::Group& Workbench::group_of(const Run& run) const {
  return *std::ranges::find(groups_, run.planned->variant,
                            [](const Group& group) { return group.planned->variant->name; });
}

void Workbench::look_at_folders() {
  std::size_t finished = 0;
  for (Run& run : runs_) {
    run.result = read_run(run.planned->folder);
    run.result.seed = run.planned->seed;
    if (run.result.finished) {
      settle(run);
      ++finished;
    } else if (run.result.failure && run.result.failure->exit_code == static_cast<int>(ExitCode::diverged)) {
      fail(run, *run.result.failure);
    }
  }
  if (finished > 0) log::info(concat(finished, " of ", runs_.size(), " runs are finished already"));
}

void Workbench::fail(Run& run, const Failure& failure) {
  run.state = State::failed;
  run.result.failure = failure;
  if (!first_failure_) first_failure_ = FailedRun{name_of(*run.planned), failure};
}

// A finished run without a number that can be compared has diverged.
void Workbench::settle(Run& run) {
  if (!has_diverged(run.result)) {
    run.state = State::finished;
    return;
  }
  fail(run, Failure{static_cast<int>(ExitCode::diverged), "diverged: its perplexity at the end is not finite",
                    run.planned->folder / "train.log"});
}

bool Workbench::is_done(const Run& run) const {
  return run.state == State::finished || run.state == State::failed;
}

// The point whose runs are all finished with the least mean perplexity on the selection shards. Nothing while
// runs are outstanding.
std::optional<std::size_t> Workbench::chosen_point(const Group& group) const {
  const auto& points = group.planned->variant->points;
  if (points.size() == 1) return 0;
  std::optional<std::size_t> best;
  double least = 0.0;
  for (std::size_t p = 0; p < points.size(); ++p) {
    std::vector<double> values;
    bool complete = true;
    for (const std::size_t index : group.runs) {
      const Run& run = runs_[index];
      if (run.planned->point != points[p].name) continue;
      if (!is_done(run) && !run.result.finished) return std::nullopt;
      complete = complete && run.result.finished && run.result.own;
      if (run.result.own) values.push_back(run.result.own->ppl);
    }
    const double mean = estimate(values).mean;
    if (complete && (!best || mean < least)) {
      best = p;
      least = mean;
    }
  }
  return best;
}

bool Workbench::is_measured(const Group& group, const RunResult& run) const {
  return run.evaluated && run.evaluated_on == join_patterns(group.planned->validation) &&
         run.evaluated_digest == group.validation_digest;
}

bool Workbench::wants_evaluation(const Run& run) const {
  if (!plan_.chooses_lr || run.state != State::finished) return false;
  const Group& group = group_of(run);
  const auto chosen = chosen_point(group);
  if (!chosen || group.planned->variant->points[*chosen].name != run.planned->point) return false;
  return !is_measured(group, run.result);
}

void Workbench::start_training(std::size_t index) {
  Run& run = runs_[index];
  const PlannedRun& planned = *run.planned;
  try {
    store_recipe(planned);
    forget_failure(planned.folder);
    wait_for_lock(planned.folder, kLockSeconds);
    active_.push_back(
        {index, false,
         Child({"train", (planned.folder / kPlannedRecipe).string()}, planned.folder / "train.log")});
  } catch (const std::exception& error) {  // a full disk, no process: this run's failure
    finish_training(run, Failure{static_cast<int>(ExitCode::usage), error.what(), planned.folder});
    return;
  }
  run.state = State::running;
}

void Workbench::start_evaluation(std::size_t index) {
  Run& run = runs_[index];
  const auto& folder = run.planned->folder;
  try {
    active_.push_back({index, true,
                       Child({"eval", folder.string(), pattern_override(group_of(run).planned->validation)},
                             folder / "eval.log")});
  } catch (const std::exception& error) {
    fail(run, Failure{static_cast<int>(ExitCode::usage), error.what(), folder});
    return;
  }
  run.state = State::running;
}

// Evaluations first: they complete a line of the table.
bool Workbench::start_next() {
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    if (wants_evaluation(runs_[i])) {
      start_evaluation(i);
      return true;
    }
  }
  const auto waiting = std::ranges::find(runs_, State::waiting, &Run::state);
  if (waiting == runs_.end()) return false;
  start_training(static_cast<std::size_t>(waiting - runs_.begin()));
  return true;
}

void Workbench::say(const Run& run, const std::string& what, double seconds) {
  const auto done =
      std::ranges::count_if(runs_, [this](const Run& one) { return is_done(one) || one.result.finished; });
  const auto left = static_cast<double>(runs_.size() - static_cast<std::size_t>(done));
  std::string text = concat("[", done, "/", runs_.size(), "] ", name_of(*run.planned), ": ", what, " (",
                            format_duration(seconds), ")");
  if (trained_ > 0 && left > 0)
    text += concat(", about ", format_duration(train_seconds_ / trained_ * left / jobs_), " left");
  log::info(text);
}

void Workbench::finish_training(Run& run, const std::optional<Failure>& failure) {
  run.result = read_run(run.planned->folder);
  run.result.seed = run.planned->seed;
  if (failure) {
    run.result.finished = false;
    fail(run, *failure);
    try {
      write_failure(run.planned->folder, *failure);
    } catch (const FileError& error) {
      log::warning(error.what());
    }
  } else if (run.result.finished) {
    settle(run);
  } else {
    run.state = stopping_ ? State::waiting : State::stopped;
  }
}

void Workbench::finish_evaluation(Run& run, const std::optional<Failure>& failure,
                                  const std::string& output) {
  const std::int64_t steps = steps_of(*run.planned);
  const auto value = failure ? std::nullopt : parse_evaluation(output, steps);
  if (!value) {
    fail(run, failure.value_or(Failure{static_cast<int>(ExitCode::internal),
                                       concat("'kumiko eval' gave no finite perplexity of step ", steps,
                                              ": its newest checkpoint may be damaged or removed"),
                                       run.planned->folder / "eval.log"}));
    return;
  }
  run.state = State::finished;
  run.result.evaluated = value->perplexity;
  run.result.evaluated_digest = value->digest;
  run.result.evaluated_on = join_patterns(group_of(run).planned->validation);
  try {
    write_evaluation(run.planned->folder, *value, run.result.evaluated_on);
  } catch (const FileError& error) {  // it is evaluated again next time
    log::warning(error.what());
  }
}

void Workbench::finish(Job& job) {
  Run& run = runs_[job.run];
  auto failure = job.child.failure();
  const bool too_early =
      stopping_ && failure && failure->exit_code == 128 + SIGUSR2;  // before it could hear of the stop
  if (too_early && job.evaluates) {
    run.state = State::finished;
    return;
  }
  if (too_early) failure.reset();
  if (job.evaluates) {
    finish_evaluation(run, failure, job.child.output());
  } else {
    finish_training(run, failure);
  }
  if (run.state == State::failed) {
    const Failure& why = *run.result.failure;
    log::warning(concat(name_of(*run.planned), " failed with exit code ", why.exit_code, ": ", why.reason,
                        "; see ", why.log.string(), "; the rest goes on"));
  } else if (run.state == State::waiting || run.state == State::stopped) {
    say(run, "stopped as asked", job.child.seconds());
  } else if (job.evaluates) {
    say(run, "validation perplexity " + fixed(run.result.evaluated->ppl, 2), job.child.seconds());
  } else {
    train_seconds_ += job.child.seconds();
    ++trained_;
    say(run,
        concat("finished, ", plan_.chooses_lr ? "selection" : "validation", " perplexity ",
               run.result.own ? fixed(run.result.own->ppl, 2) : "unknown"),
        job.child.seconds());
  }
}

// Writing the report never ends the runs.
void Workbench::publish() {
  try {
    write_report(plan_.sweep->output_dir, make_report());
    report_problem_.clear();
  } catch (const FileError& error) {
    if (report_problem_.empty()) log::warning(concat(error.what(), "; the runs go on"));
    report_problem_ = error.what();
  }
}

void Workbench::pass_on_signals() {
  if (StopSignals::checkpoint_requested()) {
    StopSignals::clear_checkpoint_request();
    for (const Job& job : active_) {
      if (!job.evaluates) job.child.signal(SIGUSR1);
    }
  }
  if (!StopSignals::stop_requested() || stopping_) return;
  stopping_ = true;
  log::info(concat("stopping: ", active_.size(),
                   active_.size() == 1 ? " run saves its checkpoint" : " runs save their checkpoints",
                   "; a second Ctrl-C ends at once"));
  for (const Job& job : active_) job.child.signal(SIGUSR2);
}

WorkbenchResult Workbench::run() {
  look_at_folders();
  publish();
  while (true) {
    pass_on_signals();
    while (!stopping_ && static_cast<int>(active_.size()) < jobs_ && start_next()) {
    }
    if (active_.empty()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::size_t before = active_.size();
    for (auto job = active_.begin(); job != active_.end();) {
      if (job->child.has_ended()) {
        finish(*job);
        job = active_.erase(job);
      } else {
        ++job;
      }
    }
    if (active_.size() != before) publish();
  }
  publish();
  KUMIKO_EXPECTS(report_problem_.empty(), UsageError, report_problem_,
                 "; make room and give the same command again: finished runs are kept");
  WorkbenchResult result{stopping_, 0, runs_.size(), first_failure_};
  for (const Run& run : runs_) {
    result.finished += run.state == State::finished ? 1 : 0;
    result.stopped = result.stopped || run.state == State::stopped;
  }
  return result;
}

}  // namespace kumiko::tools
