// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <chrono>
#include <ctime>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>
#include <thread>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "data/loader.hpp"
#include "dist/agreement.hpp"
#include "framework/core/build_info.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/format.hpp"
#include "framework/core/log.hpp"
#include "framework/core/memory_counter.hpp"
#include "framework/core/signals.hpp"
#include "framework/train/broadcast_reader.hpp"
#include "framework/train/flops.hpp"
#include "framework/train/hf_export.hpp"
#include "framework/train/memory_plan.hpp"
#include "framework/train/recipe_diff.hpp"
#include "framework/train/run.hpp"
#include "tools/ablate/paper_memory.hpp"
#include "tools/ablate/results.hpp"
#include "tools/assemble.hpp"
#include "tools/auto_prepare.hpp"
#include "tools/commands/commands.hpp"
#include "tools/machine_facts.hpp"

namespace kumiko::tools {
namespace {

struct TrainFlags {
  std::string recipe;
  std::vector<std::string> overrides;
  std::vector<std::string> allow_changes;
  bool dry_run = false;
};

// The shards of a run, open and verified.
struct RunData {
  data::ShardSet train;
  std::optional<data::ShardSet> validation;
};

RunData open_data(const data::DataOptions& options) {
  RunData result{data::ShardSet::open(data::expand_shards(options.train)), std::nullopt};
  if (options.validation.empty()) return result;
  result.validation = data::ShardSet::open(data::expand_shards(options.validation));
  KUMIKO_EXPECTS(result.validation->tokenizer_digest() == result.train.tokenizer_digest(), DataError,
                 "the shards of data.train and data.validation were made with different tokenizers; prepare them together");
  return result;
}

// What a run holds on rank 0 only.
struct Record {
  RunFolder folder;
  CheckpointStore checkpoints;
  std::unique_ptr<CheckpointReader> resumed;

  explicit Record(const Recipe& recipe)
      : folder(recipe.output_dir), checkpoints(folder.path(), recipe.checkpoint),
        resumed(checkpoints.resume([](const std::string& reason) { log::warning(reason); })) {}
};

// A run that goes on keeps its micro-batch; `auto` would depend on the number of ranks.
std::int64_t choose_micro_batch(const Recipe& recipe, const Record* record, dist::Communicator& comm) {
  std::string pinned;
  if (record != nullptr && record->resumed) pinned = record->resumed->manifest().meta.recipe;
  pinned = broadcast_text(pinned, comm);
  if (recipe.train.micro_batch_size) return *recipe.train.micro_batch_size;
  const std::int64_t share = recipe.train.global_batch_size / comm.size();
  if (!pinned.empty()) {
    const auto before = ConfigNode::parse_text(pinned, "checkpoint").child("train").integer_or_auto("micro_batch_size", {1, 1 << 20});
    if (before && share % *before == 0) return *before;
  }
  return automatic_micro_batch(recipe.train.global_batch_size, comm.size(), recipe.data.sequence_length);
}

void print_plan(const Assembly& assembly, std::int64_t micro_batch, int ranks) {
  const Recipe& recipe = assembly.recipe;
  const MemoryPlan plan = plan_memory(recipe.model, *assembly.method, recipe.train, micro_batch, recipe.data.sequence_length, ranks);
  const std::int64_t full = full_rank_state_bytes(recipe.model, recipe.train.param_dtype);
  std::cout << recipe.node.to_yaml() << "\n"
            << describe(plan) << "  weights and states " << format_bytes(plan.states()) << "; full-rank AdamW at this precision: "
            << format_bytes(full) << "\n"
            << "  parameters " << format_count(recipe.model.total_parameters()) << "\n";
}

// Settles the micro-batch size and checks what depends on it and on the ranks.
void resolve_micro_batch(Recipe& recipe, std::int64_t micro_batch, int ranks) {
  recipe.train.micro_batch_size = micro_batch;
  recipe.node.child("train").resolve("micro_batch_size", concat(micro_batch));
  recipe.validate(ranks);
}

// Making shards takes long, so the recipe is checked before, as it will be read afterwards. Rank 0 only.
void check_before_preparing(const TrainFlags& flags, int ranks) {
  Recipe recipe = Recipe::parse(ConfigNode::parse_file(flags.recipe, flags.overrides));
  const std::int64_t vocab_size = AutoPrepare::parse(recipe.node.child("data"))->vocab_size;
  Assembly assembly(std::move(recipe), vocab_size, 0);
  const Recipe& options = assembly.recipe;
  const std::int64_t micro_batch = options.train.micro_batch_size.value_or(
      automatic_micro_batch(options.train.global_batch_size, ranks, options.data.sequence_length));
  resolve_micro_batch(assembly.recipe, micro_batch, ranks);
  if (flags.dry_run) print_plan(assembly, micro_batch, ranks);
}

dist::Facts facts_of(const Assembly& assembly, const RunData& run_data) {
  return {{"kumiko version", kumiko_version()},
          {"build", build_digest()},
          {"LibTorch version", torch_version()},
          {"recipe", assembly.recipe.node.to_yaml()},
          {"training data", run_data.train.digest()},
          {"validation data", run_data.validation ? run_data.validation->digest() : "none"}};
}

// Rank 0 reads, all ranks load. Returns the step resumed at, 0 for a new run.
std::int64_t resume(Trainer& trainer, const Record* record, const Recipe& recipe, const std::vector<std::string>& allow_changes,
                    dist::Communicator& comm) {
  const CheckpointReader* source = record != nullptr ? record->resumed.get() : nullptr;
  if (broadcast_text(source != nullptr ? "resume" : "", comm).empty()) return 0;
  if (source != nullptr) {
    for (const auto& change : check_resumed_recipe(source->manifest().meta.recipe, recipe.node.to_yaml(), allow_changes)) {
      log::info(concat("recipe changed: ", change.key, " was ", change.before, ", is ", change.after));
    }
  }
  const BroadcastReader reader(source, comm);
  trainer.load(reader);
  log::info(concat("resumed at step ", trainer.next_step()));
  return trainer.next_step();
}

struct Outcome {
  RunSummary run;
  std::string train_digest, validation_digest;
  std::optional<double> unigram_perplexity;
  std::int64_t state_bytes = 0;
  std::int64_t full_rank_bytes = 0;
  std::int64_t plan_bytes = 0;
  std::int64_t paper_bytes = 0;
  std::int64_t parameters = 0;
  std::int64_t trained_parameters = 0;
};

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 64> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S UTC", &parts);
  return text.data();
}

std::string describe_machine() {
  std::ostringstream cpu;
  cpu << std::ifstream("/proc/cpuinfo").rdbuf();
  return concat(field_of(cpu.str(), "model name"), ", ", at::get_num_threads(), at::get_num_threads() == 1 ? " thread" : " threads", " a rank");
}

// All steps are taken and the last checkpoint holds them: what is evaluated later is what was measured.
bool is_complete(const RunSummary& run) { return run.complete && run.checkpoint_problem.empty(); }

std::string_view headline(const RunSummary& run) {
  if (!run.checkpoint_problem.empty()) return "run ended without its last checkpoint: ";
  return run.complete ? "run complete: " : "run stopped as asked: ";
}

// The summary of a start that took no step replaces only one that tells of less.
bool keeps_summary(const RunSummary& run, const nlohmann::json& before) {
  return run.tokens_per_s == 0.0 && before.is_object() && before.value("complete", nlohmann::json()) == is_complete(run) &&
         before.value("steps", nlohmann::json()) == run.steps;
}

// Of this start and of those before it that wrote a summary.
std::int64_t peak_of_all_starts(const RunSummary& run, const nlohmann::json& before) {
  const std::int64_t own = memory_counter::peak_resident_bytes();
  const auto earlier = run.first_step > 0 && before.is_object() ? before.find("peak_memory_bytes") : before.end();
  return earlier != before.end() && earlier->is_number_integer() ? std::max(own, earlier->get<std::int64_t>()) : own;
}

void print_summary(const Outcome& outcome, const std::filesystem::path& folder) {
  const RunSummary& run = outcome.run;
  nlohmann::ordered_json json;
  const auto file = folder / "summary.json";
  const auto before = nlohmann::json::parse(std::ifstream(file), nullptr, /*allow_exceptions=*/false);
  const std::int64_t peak = peak_of_all_starts(run, before);
  std::cout << headline(run) << folder.string() << "\n";
  std::cout << "steps: " << run.steps << "\n";
  json["steps"] = run.steps;
  json["complete"] = is_complete(run);
  if (run.eval) {
    std::cout << "validation perplexity: " << run.eval->ppl << "\n"
              << "ppl_published_convention: " << run.eval->ppl_published_convention << "\n";
    json["validation_perplexity"] = run.eval->ppl;
    json["ppl_published_convention"] = run.eval->ppl_published_convention;
  }
  if (outcome.unigram_perplexity) {
    std::cout << "unigram perplexity: " << *outcome.unigram_perplexity << "\n";
    json["unigram_perplexity"] = *outcome.unigram_perplexity;
  }
  std::cout << "merges: " << run.merges << "\n"
            << "tokens/s: " << static_cast<std::int64_t>(run.tokens_per_s) << "\n"
            << "seconds: " << run.seconds << "\n"
            << "peak memory: " << format_bytes(peak) << "\n"
            << "weights and states: " << format_bytes(outcome.state_bytes) << " (full-rank AdamW: " << format_bytes(outcome.full_rank_bytes)
            << ")\n";
  json["merges"] = run.merges;
  json["tokens_per_s"] = run.tokens_per_s;
  json["seconds"] = run.seconds;
  json["peak_memory_bytes"] = peak;
  json["state_bytes"] = outcome.state_bytes;
  json["full_rank_state_bytes"] = outcome.full_rank_bytes;
  json["plan_bytes"] = outcome.plan_bytes;
  json["paper_bytes"] = outcome.paper_bytes;
  json["parameters"] = outcome.parameters;
  json["trained_parameters"] = outcome.trained_parameters;
  json["train_digest"] = outcome.train_digest;
  if (!outcome.validation_digest.empty()) json["validation_digest"] = outcome.validation_digest;
  json["version"] = concat("kumiko ", kumiko_version(), ", LibTorch ", torch_version());
  json["build"] = build_digest();
  json["machine"] = describe_machine();
  json["finished_at"] = utc_now();
  if (keeps_summary(run, before)) return;
  try {
    write_file_durably(file, json.dump(2) + "\n");
  } catch (const FileError& error) {
    log::warning(error.what());
  }
}

// Bytes that are really held: parameters, quantized parts and moments.
std::int64_t held_state_bytes(Llama& model, const Optimizer& optimizer) {
  std::int64_t bytes = optimizer.state_nbytes();
  for (const Parameter* p : model.parameters()) bytes += p->value.defined() ? static_cast<std::int64_t>(p->value.nbytes()) : 0;
  for (const Linear* linear : model.linears()) bytes += linear->frozen_nbytes();
  return bytes;
}

// Elements that the optimizer moves; of a parameter that is kept in another form, those of its matrix.
std::int64_t trained_parameters(Llama& model) {
  std::int64_t count = 0;
  for (const Parameter* p : model.parameters()) count += p->value.defined() ? p->value.numel() : 0;
  for (Linear* linear : model.linears()) {
    for (const Parameter* p : linear->parameters()) {
      if (!p->value.defined()) count += linear->spec().in_features * linear->spec().out_features;
    }
  }
  return count;
}

void train_on(dist::Communicator& comm, Recipe recipe, const TrainFlags& flags) {
  const std::optional<AutoPrepare> auto_prepare = AutoPrepare::parse(recipe.node.child("data"));
  recipe.validate(comm.size());
  const bool missing = auto_prepare && comm.rank() == 0 && shards_missing(recipe.data);
  if (!broadcast_text(missing ? "missing" : "", comm).empty()) {
    if (comm.rank() == 0) check_before_preparing(flags, comm.size());
    if (flags.dry_run) return;
    if (comm.rank() == 0) prepare_missing_shards(*auto_prepare, recipe.data);
    if (comm.size() > 1) comm.barrier();
  }
  const RunData run_data = open_data(recipe.data);
  Assembly assembly(std::move(recipe), run_data.train.vocab_size(), run_data.train.eos_id());
  Recipe& options = assembly.recipe;

  std::unique_ptr<Record> record;
  if (comm.rank() == 0 && !flags.dry_run) {
    record = std::make_unique<Record>(options);
    forget_failure(record->folder.path());
  }
  const std::int64_t micro_batch = choose_micro_batch(options, record.get(), comm);
  resolve_micro_batch(options, micro_batch, comm.size());
  if (flags.dry_run) {
    if (comm.rank() == 0) print_plan(assembly, micro_batch, comm.size());
    return;
  }
  if (comm.size() > 1) dist::require_agreement(comm, facts_of(assembly, run_data));

  assembly.make_model();
  Llama& model = *assembly.model;
  Optimizer optimizer(options.optimizer, model.parameters(), *assembly.method);
  LrSchedule lr(options.lr_schedule, options.optimizer.lr, options.train.steps);
  data::Loader loader(run_data.train, options.data,
                      {options.train.global_batch_size, micro_batch, comm.rank(), comm.size(), options.train.seed});
  Trainer trainer(options.train, {model, *assembly.method, optimizer, lr, loader, comm, options.comm.wire});
  const std::int64_t resumed_step = resume(trainer, record.get(), options, flags.allow_changes, comm);

  std::optional<data::EvaluationCursor> validation;
  if (run_data.validation) {
    validation.emplace(*run_data.validation, options.data, data::EvaluationOptions{micro_batch, options.eval.tokens, comm.rank(), comm.size()});
  }
  RunOptions run_options{options.train, options.eval, options.log, options.model.train_flops_per_token(options.data.sequence_length),
                         measure_matmul_rate(options.train.compute_dtype())};
  const auto tokenizer = run_data.train.tokenizer();
  std::optional<MetricsLog> metrics;
  std::optional<TensorBoardWriter> tensorboard;
  std::optional<Progress> progress;
  std::optional<RunRecord> run_record;
  if (record) {
    record->folder.write_recipe(options.node.to_yaml());
    metrics.emplace(record->folder.path() / "metrics.jsonl", resumed_step > 0 ? resumed_step : -1);
    if (options.log.tensorboard) tensorboard.emplace(record->folder.path(), resumed_step > 0 ? resumed_step : -1);
    progress.emplace(options.train.steps);
    run_record.emplace(RunRecord{record->folder, record->checkpoints,
                                 {comm.size(), options.node.to_yaml(), concat("kumiko ", kumiko_version(), ", LibTorch ", torch_version())},
                                 tokenizer.model_bytes(), *metrics, tensorboard ? &*tensorboard : nullptr, *progress});
    record->resumed.reset();
    log::info(concat("training ", options.model.preset.empty() ? "a LLaMA" : options.model.preset, " (",
                     format_count(options.model.total_parameters()), " parameters) with ", options.method_name, ": ", options.train.steps,
                     " steps of ", options.train.global_batch_size, " x ", options.data.sequence_length, " tokens on ", comm.size(),
                     comm.size() == 1 ? " rank, " : " ranks, ", at::get_num_threads(), " threads"));
  }
  StopSignals::install();
  Run run(run_options, trainer, *assembly.method, model, lr, validation ? &*validation : nullptr, comm,
          run_record ? &*run_record : nullptr);
  Outcome outcome{run.go()};
  if (!record) return;
  outcome.state_bytes = held_state_bytes(model, optimizer);
  outcome.full_rank_bytes = full_rank_state_bytes(options.model, options.train.param_dtype);
  const MemoryPlan plan = plan_memory(options.model, *assembly.method, options.train, micro_batch, options.data.sequence_length, comm.size());
  outcome.plan_bytes = plan.total();
  outcome.paper_bytes = paper_bytes(options, plan);
  outcome.parameters = options.model.total_parameters();
  outcome.trained_parameters = trained_parameters(model);
  outcome.train_digest = run_data.train.digest();
  if (run_data.validation) {
    outcome.validation_digest = run_data.validation->digest();
    outcome.unigram_perplexity = data::unigram_perplexity(
        run_data.train.token_counts(), data::count_targets(*run_data.validation, options.data, options.eval.tokens));
  }
  print_summary(outcome, record->folder.path());
  if (outcome.run.complete) {
    export_hf(model, tokenizer, options.train.precision == Precision::bf16 ? at::kBFloat16 : at::kFloat, record->folder.path() / "final");
  }
  KUMIKO_EXPECTS(outcome.run.checkpoint_problem.empty(), CheckpointError, "the run's last checkpoint could not be saved: ",
                 outcome.run.checkpoint_problem, "; make room and give the same command again, it goes on from the newest one saved");
}

// Of ranks that fail alike rank 0 speaks; one that fails alone speaks a moment later and ends the others.
void abort_job(dist::Communicator& comm, ExitCode code, const std::string& message) {
  if (comm.rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(2));
  log::error(message);
  comm.abort(static_cast<int>(code));
}

void train(const TrainFlags& flags) {
  const Recipe recipe = Recipe::parse(ConfigNode::parse_file(flags.recipe, flags.overrides));
  set_threads(recipe.train);
  const auto comm = make_communicator(recipe.comm);
  if (comm->size() == 1) return train_on(*comm, recipe, flags);
  try {
    train_on(*comm, recipe, flags);
    comm->barrier();
  } catch (const Error& error) {
    abort_job(*comm, error.code(), error.what());
  } catch (const std::exception& error) {
    abort_job(*comm, ExitCode::internal, concat("internal error: ", error.what()));
  }
}

}  // namespace

void add_train(CLI::App& app) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = app.add_subcommand("train", "train a model as a recipe says; resumes the run in its output folder");
  command->add_option("recipe", flags->recipe, "recipe, a YAML file")->required();
  command->add_option("overrides", flags->overrides, "changes of the recipe: a.b=value ...");
  command->add_option("--allow-changes", flags->allow_changes, "keys or blocks of the recipe that a resume may change");
  command->add_flag("--dry-run", flags->dry_run, "print the resolved recipe and the memory plan, and stop");
  command->callback([flags] { train(*flags); });
}

}  // namespace kumiko::tools
