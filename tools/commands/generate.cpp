// SPDX-License-Identifier: Apache-2.0
#include "framework/train/generate.hpp"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <optional>

#include <CLI/CLI.hpp>

#include "framework/core/error.hpp"
#include "framework/core/log.hpp"
#include "tools/assemble.hpp"
#include "tools/commands/commands.hpp"

namespace kumiko::tools {
namespace {

struct GenerateFlags {
  std::string path;
  std::string prompt;
  std::optional<std::int64_t> max_tokens;
  std::int64_t seed = SampleOptions{}.seed;
  SampleOptions sample;
};

std::vector<std::int32_t> encode_prompt(const data::Tokenizer& tokenizer, const std::string& text) {
  std::vector<std::int32_t> prompt = {tokenizer.eos_id()};   // where a document begins in the training stream
  try {
    const auto ids = tokenizer.encode(text);
    prompt.insert(prompt.end(), ids.begin(), ids.end());
  } catch (const DataError& error) {
    throw UsageError(concat("--prompt: ", error.what()));
  }
  return prompt;
}

// How many tokens are generated: what was asked for, else as many as there is room for behind the prompt, up to the default.
std::int64_t choose_max_tokens(const GenerateFlags& flags, std::int64_t prompt_tokens, std::int64_t positions) {
  if (!flags.max_tokens) return std::min(flags.sample.max_tokens, std::max(positions - prompt_tokens, positions / 2));
  KUMIKO_EXPECTS(*flags.max_tokens < positions, UsageError, "--max-tokens ", *flags.max_tokens,
                 " leaves no room for a prompt: the model has ", positions, " positions; use at most ", positions - 1);
  return *flags.max_tokens;
}

// CLI::Range lets "nan" through.
CLI::Validator real_between(double low, double high) {
  return {[low, high](std::string& text) {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            const bool good = end == text.c_str() + text.size() && !text.empty() && value >= low && value <= high;
            return good ? std::string() : concat("found '", text, "', needed a number from ", low, " to ", high);
          },
          concat("in [", low, " - ", high, "]")};
}

void generate_text(GenerateFlags flags) {
  const LoadedModel loaded = load_model(flags.path);
  flags.sample.seed = static_cast<std::uint64_t>(flags.seed);
  flags.sample.vocab_limit = loaded.tokenizer.vocab_size();
  const std::vector<std::int32_t> prompt = encode_prompt(loaded.tokenizer, flags.prompt);
  const auto prompt_tokens = static_cast<std::int64_t>(prompt.size());
  const std::int64_t positions = loaded.assembly->recipe.model.max_sequence_length;
  flags.sample.max_tokens = choose_max_tokens(flags, prompt_tokens, positions);
  const std::int64_t room = positions - flags.sample.max_tokens;
  if (prompt_tokens > room) {
    log::warning(concat("the prompt has ", prompt_tokens, " tokens; the model sees its last ", room, " beside ", flags.sample.max_tokens,
                        " new ones, in ", positions, " positions"));
  }
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
  command
      ->add_option("--max-tokens", flags->max_tokens, concat("new tokens at most (default ", SampleOptions{}.max_tokens, ", fewer for a short context)"))
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--temperature", flags->sample.temperature, "0: the likeliest token each time")->check(real_between(0.0, 100.0));
  command->add_option("--top-k", flags->sample.top_k, "draw among the k likeliest; 0: all")->check(CLI::Range(0, 1 << 24));
  command->add_option("--top-p", flags->sample.top_p, "draw among the likeliest with this share of the mass")->check(real_between(0.0, 1.0));
  command->add_option("--seed", flags->seed, "of the draws")->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()));
  command->callback([flags] { generate_text(*flags); });
}

}  // namespace kumiko::tools
