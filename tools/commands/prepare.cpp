// SPDX-License-Identifier: Apache-2.0
#include "tools/commands/prepare.hpp"

#include <iomanip>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "data/prepare.hpp"
#include "framework/core/error.hpp"
#include "framework/core/format.hpp"
#include "tools/commands/corpus_flags.hpp"

namespace kumiko::tools {
namespace {

struct Flags {
  CorpusFlags corpus;
  std::string tokenizer;
  std::string output;
  double validation = 0.01;
  double selection = 0.0;
  std::int64_t shard_tokens = 64'000'000;
  std::string max_bytes;
  bool force = false;
};

void print_split(const char* name, const data::SplitSummary& split) {
  std::cout << std::left << std::setw(11) << name << ' ' << split.documents << " documents, "
            << format_bytes(split.text_bytes) << " of text, " << split.tokens << " tokens in "
            << split.shards.size() << (split.shards.size() == 1 ? " shard\n" : " shards\n");
}

void print_summary(const Flags& flags, const data::PrepareSummary& summary) {
  print_split("train", summary.train);
  print_split("validation", summary.validation);
  if (flags.selection > 0) print_split("selection", summary.selection);
  double bytes = 0.0;
  double tokens = 0.0;
  for (const auto* split : {&summary.train, &summary.validation, &summary.selection}) {
    bytes += static_cast<double>(split->text_bytes);
    tokens += static_cast<double>(split->tokens);
  }
  std::cout << "read        " << summary.files << " files; " << summary.duplicates << " duplicates dropped, "
            << summary.skipped << " bad documents skipped; " << std::fixed << std::setprecision(2)
            << bytes / tokens << " bytes a token\n"
            << "output      " << flags.output << '\n';
  if (summary.validation.documents == 0 && flags.validation > 0) {
    std::cerr << "kumiko: warning: no document fell into validation; raise --validation\n";
  }
}

void run(const Flags& flags) {
  data::PrepareOptions options;
  options.documents = flags.corpus.options();
  options.tokenizer = flags.tokenizer;
  options.output = flags.output;
  options.validation_fraction = flags.validation;
  options.selection_fraction = flags.selection;
  options.shard_tokens = flags.shard_tokens;
  options.max_bytes = flags.max_bytes.empty() ? 0 : parse_size_flag("--max-bytes", flags.max_bytes);
  options.force = flags.force;
  ReadingProgress bar;
  const data::PrepareSummary summary = data::prepare(options, [&bar](const data::PrepareProgress& progress) {
    bar.update(
        progress.file_bytes_read, progress.file_bytes_total,
        concat(format_count(progress.documents), " documents, ", format_count(progress.tokens), " tokens"));
  });
  bar.finish();
  print_summary(flags, summary);
}

}  // namespace

void add_prepare(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("prepare", "turn text into token shards for training");
  flags->corpus.add_to(*command);
  command->add_option("--tokenizer", flags->tokenizer, "model made by 'kumiko tokenizer train'")->required();
  command->add_option("-o,--output", flags->output, "folder for train-*.h5, val-*.h5 and select-*.h5")->required();
  command
      ->add_option("--validation", flags->validation,
                   "fraction of the documents kept for validation, by their hash")
      ->capture_default_str();
  command
      ->add_option("--selection", flags->selection,
                   "fraction kept for choosing hyper-parameters, as select-*.h5 (for 'kumiko ablate')")
      ->capture_default_str();
  command->add_option("--shard-tokens", flags->shard_tokens, "tokens after which a shard is closed")
      ->capture_default_str();
  command->add_option("--max-bytes", flags->max_bytes,
                      "stop after this much distinct text, for instance 100MB (default all)");
  command->add_flag("--force", flags->force, "replace the shards in the output folder");
  command->callback([flags] { run(*flags); });
}

}  // namespace kumiko::tools
