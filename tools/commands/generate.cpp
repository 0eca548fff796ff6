// SPDX-License-Identifier: Apache-2.0
#include "framework/train/generate.hpp"

#include <iostream>

#include <CLI/CLI.hpp>

#include "tools/assemble.hpp"
#include "tools/commands/commands.hpp"

namespace kumiko::tools {
namespace {

struct GenerateFlags {
  std::string path;
  std::string prompt;
  SampleOptions sample;
};

void generate_text(GenerateFlags flags) {
  const LoadedModel loaded = load_model(flags.path);
  flags.sample.vocab_limit = loaded.tokenizer.vocab_size();
  std::vector<std::int32_t> prompt = {loaded.tokenizer.eos_id()};   // where a document begins in the training stream
  const auto ids = loaded.tokenizer.encode(flags.prompt);
  prompt.insert(prompt.end(), ids.begin(), ids.end());
  std::cout << flags.prompt << std::flush;
  generate(*loaded.assembly->model, prompt, loaded.tokenizer.eos_id(), flags.sample,
           [&](std::int32_t id) { std::cout << loaded.tokenizer.bytes_of(id) << std::flush; });
  std::cout << std::endl;
}

}  // namespace

void add_generate(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "continue a prompt with a run's model, from its quantized weights");
  command->add_option("path", flags->path, "run folder (its newest checkpoint) or checkpoint folder")->required();
  command->add_option("--prompt", flags->prompt, "text to continue");
  command->add_option("--max-tokens", flags->sample.max_tokens, "new tokens at most")->check(CLI::Range(1, 1 << 20));
  command->add_option("--temperature", flags->sample.temperature, "0: the likeliest token each time")->check(CLI::Range(0.0, 100.0));
  command->add_option("--top-k", flags->sample.top_k, "draw among the k likeliest; 0: all")->check(CLI::Range(0, 1 << 24));
  command->add_option("--top-p", flags->sample.top_p, "draw among the likeliest with this share of the mass")->check(CLI::Range(0.0, 1.0));
  command->add_option("--seed", flags->sample.seed, "of the draws");
  command->callback([flags] { generate_text(*flags); });
}

}  // namespace kumiko::tools
