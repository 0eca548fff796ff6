// SPDX-License-Identifier: Apache-2.0
// oracle_trace RECIPE OUT STEPS [from=STATE.safetensors] [projections=NxR] [a.b=value ...]
//
// Takes STEPS steps of a recipe, making its shards where there are none, and writes into the folder OUT what
// another implementation needs to take them too:
//
// state-NNN.safetensors: before step NNN, and after the last: the trainer's state (numbers and texts in the
// metadata, a letter for the kind before the value; fp64 as bits/NAME, int64), effective/LAYER [out, in] fp32
// of every matrix, and but for the first file grad/PARAMETER of the step before.
//
// batch-NNN.safetensors: I/tokens and I/targets, [B, T] int64, of each micro-batch I of step NNN.
//
// logits.safetensors: logits [B, T, V] of the first micro-batch before the first step.
//
// trace.jsonl: a line a step.
//
// projections.safetensors, with `projections`: PARAMETER/I [min(out, in), R], the first N random projections
// of each matrix as APOLLO uses them.
//
// With `from` the state is loaded first, and NNN begins at its step.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "data/loader.hpp"
#include "framework/core/error.hpp"
#include "framework/train/safetensors.hpp"
#include "framework/train/trainer.hpp"
#include "lowrank/methods/apollo.hpp"
#include "tests/support/memory_state.hpp"
#include "tools/assemble.hpp"
#include "tools/auto_prepare.hpp"

namespace kumiko::test {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBits = "bits/";  // safetensors files of this program hold no fp64

std::string file_name(std::string_view kind, std::int64_t step) {
  std::string digits = std::to_string(step);
  if (digits.size() < 3) digits.insert(0, 3 - digits.size(), '0');
  return concat(kind, "-", digits, ".safetensors");
}

std::string exact(double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

void write(const fs::path& path, const NamedTensors& tensors,
           const std::map<std::string, std::string>& metadata = {{"format", "pt"}}) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, value] : tensors)
    entries.push_back({name, value.scalar_type(), value.sizes().vec()});
  write_safetensors(
      path, entries, [&](std::size_t index) { return tensors[index].second; }, metadata);
}

MemoryState read_state(const fs::path& path) {
  const auto file = SafetensorsFile::open(path);
  MemoryState state;
  for (const auto& entry : file.entries()) {
    if (entry.name.starts_with("effective/") || entry.name.starts_with("grad/")) continue;
    if (entry.name.starts_with(kBits)) {
      state.tensor(entry.name.substr(kBits.size()), file.tensor(entry.name).view(at::kDouble));
    } else {
      state.tensor(entry.name, file.tensor(entry.name));
    }
  }
  for (const auto& [name, text] : file.metadata()) {
    const std::string value = text.substr(std::min<std::size_t>(1, text.size()));
    switch (text.empty() ? ' ' : text.front()) {
      case 'i':
        state.integer(name, std::stoll(value));
        break;
      case 'r':
        state.real(name, std::stod(value));
        break;
      case 't':
        state.text(name, value);
        break;
      default:
        break;
    }
  }
  return state;
}

// Notes the batches that the trainer takes.
class RecordedSource final : public data::BatchSource {
 public:
  explicit RecordedSource(data::BatchSource& source) : source_(source) {}
  std::vector<data::Batch> next_step() override { return last = source_.next_step(); }
  void save(StateWriter& out) const override { source_.save(out); }
  void load(const StateReader& in) override { source_.load(in); }
  std::vector<data::Batch> last;

 private:
  data::BatchSource& source_;
};

NamedTensors named(const std::vector<data::Batch>& batches) {
  NamedTensors tensors;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    tensors.emplace_back(concat(i, "/tokens"), batches[i].tokens);
    tensors.emplace_back(concat(i, "/targets"), batches[i].targets);
  }
  return tensors;
}

void write_state(const fs::path& path, const Trainer& trainer, Llama& model) {
  MemoryState state;
  trainer.save(state);
  NamedTensors tensors;
  for (const auto& [name, value] : state.tensors) {
    const bool wide = value.scalar_type() == at::kDouble;
    tensors.emplace_back(wide ? concat(kBits, name) : name, wide ? value.view(at::kLong) : value);
  }
  for (const Linear* linear : model.linears())
    tensors.emplace_back("effective/" + linear->spec().name, linear->effective_weight());
  for (const Parameter* p : model.parameters()) {
    if (p->grad.defined()) tensors.emplace_back("grad/" + p->name, p->grad);
  }
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  for (const auto& [name, value] : state.integers) metadata[name] = concat("i", value);
  for (const auto& [name, value] : state.reals) metadata[name] = "r" + exact(value);
  for (const auto& [name, value] : state.texts) metadata[name] = "t" + value;
  write(path, tensors, metadata);
}

nlohmann::json layers_of(const MethodReport& report) {
  nlohmann::json layers = nlohmann::json::object();
  const auto put = [&](const LayerReport& layer, const char* key, const std::optional<double>& value) {
    if (value) layers[layer.name][key] = *value;
  };
  for (const auto& layer : report.layers) {
    put(layer, "captured_energy", layer.captured_energy);
    put(layer, "retained_update", layer.retained_update);
    put(layer, "weight_error", layer.weight_error);
  }
  return layers;
}

nlohmann::json line_of(const StepReport& report) {
  return {{"step", report.step},
          {"loss", report.loss},
          {"lr", report.lr},
          {"grad_norm", report.grad_norm},
          {"target_tokens", report.target_tokens},
          {"probe", report.probe},
          {"skipped", report.skipped},
          {"merged", report.method.merged},
          {"layers", layers_of(report.method)}};
}

NamedTensors projections_of(const ModelOptions& model, std::uint64_t seed, std::int64_t count,
                            std::int64_t rank) {
  NamedTensors tensors;
  for (const auto& spec : model.linear_specs()) {
    const std::string name = spec.name + ".weight";
    for (std::int64_t i = 0; i < count; ++i) {
      tensors.emplace_back(
          concat(name, "/", i),
          lowrank::apollo_projection(seed, name, i, std::min(spec.in_features, spec.out_features), rank));
    }
  }
  return tensors;
}

struct Request {
  fs::path recipe, out, from;
  std::int64_t steps = 0;
  std::int64_t projections = 0, projection_rank = 0;
  std::vector<std::string> overrides;
};

void trace(const Request& request) {
  const ConfigNode node = ConfigNode::parse_file(request.recipe.string(), request.overrides);
  Recipe recipe = Recipe::parse(node);
  const auto prepare = tools::AutoPrepare::parse(node.child("data"));
  if (prepare && tools::shards_missing(recipe.data)) tools::prepare_missing_shards(*prepare, recipe.data);
  const auto shards = data::ShardSet::open(data::expand_shards(recipe.data.train));
  tools::Assembly assembly(std::move(recipe), shards.vocab_size(), shards.eos_id());
  const Recipe& options = assembly.recipe;
  options.validate(1);
  tools::set_threads(options.train);
  assembly.make_model();
  Llama& model = *assembly.model;
  Optimizer optimizer(options.optimizer, model.parameters(), *assembly.method);
  LrSchedule lr(options.lr_schedule, options.optimizer.lr, options.train.steps);
  const std::int64_t micro_batch = options.train.micro_batch_size.value_or(options.train.global_batch_size);
  data::Loader loader(shards, options.data,
                      {options.train.global_batch_size, micro_batch, 0, 1, options.train.seed});
  RecordedSource source(loader);
  const auto solo = dist::make_solo();
  Trainer trainer(options.train, {model, *assembly.method, optimizer, lr, source, *solo, dist::Wire::native});
  if (!request.from.empty()) trainer.load(read_state(request.from));

  fs::create_directories(request.out);
  std::ofstream lines(request.out / "trace.jsonl");
  write_state(request.out / file_name("state", trainer.next_step()), trainer, model);
  {
    // The trainer has no look ahead: a loader of its own gives the batch.
    MemoryState position;
    loader.save(position);
    data::Loader ahead(shards, options.data,
                       {options.train.global_batch_size, micro_batch, 0, 1, options.train.seed});
    ahead.load(position);
    write(request.out / "logits.safetensors", {{"logits", model.logits(ahead.next_step().front().tokens)}});
  }
  if (request.projections > 0) {
    write(request.out / "projections.safetensors",
          projections_of(options.model, options.train.seed, request.projections, request.projection_rank));
  }
  for (std::int64_t i = 0; i < request.steps; ++i) {
    const StepReport report = trainer.step();
    write(request.out / file_name("batch", report.step), named(source.last));
    write_state(request.out / file_name("state", trainer.next_step()), trainer, model);
    lines << line_of(report).dump() << "\n";
  }
  KUMIKO_EXPECTS(lines.flush(), CheckpointError, "cannot write ", (request.out / "trace.jsonl").string());
}

Request parse(std::span<char*> arguments) {
  KUMIKO_EXPECTS(
      arguments.size() >= 4, UsageError,
      "usage: oracle_trace RECIPE OUT STEPS [from=STATE.safetensors] [projections=NxR] [a.b=value ...]");
  Request request{arguments[1], arguments[2], {}, std::stoll(arguments[3])};
  for (const char* argument : arguments.subspan(4)) {
    const std::string text = argument;
    if (text.starts_with("from=")) {
      request.from = text.substr(5);
    } else if (text.starts_with("projections=")) {
      const std::size_t x = text.find('x', 12);
      KUMIKO_EXPECTS(x != std::string::npos, UsageError, "found ", text, ", needed projections=NxR");
      request.projections = std::stoll(text.substr(12, x - 12));
      request.projection_rank = std::stoll(text.substr(x + 1));
    } else {
      request.overrides.push_back(text);
    }
  }
  return request;
}

}  // namespace
}  // namespace kumiko::test

int main(int argc, char** argv) {
  try {
    kumiko::test::trace(kumiko::test::parse({argv, static_cast<std::size_t>(argc)}));
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "oracle_trace: " << error.what() << "\n";
    return 1;
  }
}
