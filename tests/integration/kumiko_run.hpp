// SPDX-License-Identifier: Apache-2.0
// Small real runs of the binary: corpus, recipe, folders.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "framework/core/rng.hpp"
#include "tests/support/process.hpp"
#include "tests/support/temp_folder.hpp"

namespace kumiko::test {

inline const char* kBinary = KUMIKO_BINARY;

// Sentences with a grammar, so that there is something to learn.
inline std::string small_corpus(int documents) {
  const std::vector<std::string> subjects = {"the saw", "a plane", "the joiner", "my chisel", "the thin lath"};
  const std::vector<std::string> verbs = {"cuts", "shapes", "holds", "meets", "follows"};
  const std::vector<std::string> objects = {"the cedar panel", "a grain of cypress", "every joint", "the lattice", "one straight line"};
  std::string text;
  std::uint64_t state = 7;
  const auto pick = [&](const std::vector<std::string>& words) { return words[(state = mix64(state + 1)) % words.size()]; };
  for (int i = 0; i < documents; ++i) {
    for (int sentence = 0; sentence < 6; ++sentence) text += pick(subjects) + " " + pick(verbs) + " " + pick(objects) + ". ";
    text += "document " + std::to_string(i) + "\n\n";
  }
  return text;
}

// A folder with a corpus cut into documents and a recipe that prepares it.
class Workspace {
 public:
  Workspace() {
    const std::string corpus = small_corpus(400);
    std::size_t begin = 0;
    for (int i = 0; begin < corpus.size(); ++i) {
      const std::size_t end = corpus.find("\n\n", begin);
      write_text(folder_ / ("corpus/" + std::to_string(i) + ".txt"), corpus.substr(begin, end - begin));
      begin = end + 2;
    }
    write_text(folder_ / "recipe.yaml", recipe());
  }

  static std::string recipe() {
    return R"(model: {hidden_size: 64, intermediate_size: 91, n_layers: 2, n_heads: 4, n_kv_heads: 2, max_sequence_length: 128}
data:
  train: shards/train-*.h5
  validation: shards/val-*.h5
  sequence_length: 32
  prepare: {inputs: corpus, vocab_size: 384, validation: 0.1}
method: {name: loqt, rank: 16, schedule: {kind: static, tau: 14}}
optimizer: {lr: 0.01}
lr_schedule: {warmup_steps: 5}
train: {steps: 60, global_batch_size: 16, micro_batch_size: 4, precision: fp32, threads: 1}
eval: {every: 20, tokens: 2000}
checkpoint: {every: 7}
log: {every: 1}
output_dir: run
)";
  }

  const std::filesystem::path& path() const { return folder_.path(); }
  std::filesystem::path operator/(const std::string& name) const { return folder_ / name; }

  // kumiko ARGS in this folder.
  Finished kumiko(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), kBinary);
    return run_command(arguments, path());
  }
  static std::vector<std::string> mpirun(int ranks, std::vector<std::string> arguments) {
    std::vector<std::string> command = {"mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", std::to_string(ranks), kBinary};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return command;
  }

  // Last line of `kumiko inspect RUN --digest`.
  std::string digest(const std::string& run) const {
    const Finished result = kumiko({"inspect", run, "--digest"});
    std::string text = result.output;
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return result.exit_code == 0 ? text.substr(text.rfind('\n') + 1) : "inspect failed: " + result.output;
  }

  // metrics.jsonl without the fields that measure time and memory.
  std::vector<nlohmann::json> metrics(const std::string& run) const {
    std::vector<nlohmann::json> lines;
    std::istringstream in(read_text(folder_ / (run + "/metrics.jsonl")));
    for (std::string line; std::getline(in, line);) {
      nlohmann::json object = nlohmann::json::parse(line);
      for (const char* field : {"step_seconds", "probe_seconds", "tokens_per_s", "mfu", "memory_bytes", "peak_memory_bytes", "eval_seconds"}) object.erase(field);
      lines.push_back(std::move(object));
    }
    return lines;
  }

 private:
  TempFolder folder_;
};

}  // namespace kumiko::test
