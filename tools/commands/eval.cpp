// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <charconv>
#include <iostream>

#include <CLI/CLI.hpp>

#include "data/loader.hpp"
#include "framework/core/error.hpp"
#include "framework/core/format.hpp"
#include "framework/train/evaluate.hpp"
#include "tools/assemble.hpp"
#include "tools/commands/commands.hpp"

namespace kumiko::tools {
namespace {

struct EvalFlags {
  std::string path;
  std::vector<std::string> overrides;
  std::int64_t tokens = 0;
};

// The fewest digits that give the same number back.
std::string exact(double value) {
  std::array<char, 32> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}

void eval(const EvalFlags& flags) {
  LoadedModel loaded = load_model(flags.path, flags.overrides);
  const Recipe& recipe = loaded.assembly->recipe;
  KUMIKO_EXPECTS(!recipe.data.validation.empty(), UsageError, "the run has no data.validation; name shards with data.validation=PATTERN");
  const auto shards = data::ShardSet::open(data::expand_shards(recipe.data.validation));
  KUMIKO_EXPECTS(shards.tokenizer_digest() == loaded.tokenizer.digest(), DataError,
                 "the shards of data.validation were made with another tokenizer than the model's");
  const std::int64_t tokens = flags.tokens > 0 ? flags.tokens : recipe.eval.tokens;
  data::EvaluationCursor batches(shards, recipe.data, {recipe.train.micro_batch_size.value_or(8), tokens});
  const auto comm = dist::make_solo();
  const EvalReport report = evaluate(*loaded.assembly->model, batches, *comm);
  std::cout << "checkpoint: " << loaded.folder.string() << "\n"
            << "step: " << loaded.step << "\n"
            << "validation digest: " << shards.digest() << "\n"
            << "tokens: " << report.tokens << "\n"
            << "validation loss: " << exact(report.loss) << "\n"
            << "validation perplexity: " << exact(report.ppl) << "\n"
            << "ppl_published_convention: " << exact(report.ppl_published_convention) << "\n";
}

}  // namespace

void add_eval(CLI::App& app) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand("eval", "validation perplexity of a run or checkpoint, from its quantized weights");
  command->add_option("path", flags->path, "run folder (its newest checkpoint) or checkpoint folder")->required();
  command->add_option("overrides", flags->overrides, "changes of its recipe: a.b=value ...");
  command->add_option("--tokens", flags->tokens, "target tokens at most; 0: as the recipe says")->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
  command->callback([flags] { eval(*flags); });
}

}  // namespace kumiko::tools
