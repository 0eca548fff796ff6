// SPDX-License-Identifier: Apache-2.0
#include "tools/commands/tokenizer.hpp"

#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "data/hf_tokenizer.hpp"
#include "data/tokenizer.hpp"
#include "data/tokenizer_trainer.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/format.hpp"
#include "tools/commands/corpus_flags.hpp"

namespace kumiko::tools {
namespace {

struct TrainFlags {
  CorpusFlags corpus;
  data::TokenizerOptions options;
  std::string kind = "bpe";
  std::string sample = concat(data::TokenizerOptions{}.sample_bytes / 1'000'000, "MB");
  std::string output;
  bool merge_digits = false;
  bool merge_scripts = false;
  bool force = false;
};

struct ExportFlags {
  std::string model;
  std::string output;
};

void make_folder(const std::filesystem::path& folder) {
  if (folder.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  KUMIKO_EXPECTS(!error, UsageError, "output folder '", folder.string(), "' cannot be made: ", error.message(),
                 "; choose another --output");
}

void train(TrainFlags flags) {
  KUMIKO_EXPECTS(flags.force || !std::filesystem::exists(flags.output), UsageError, "'", flags.output,
                 "' already exists; choose another --output or replace it with --force");
  flags.options.kind = flags.kind == "unigram" ? data::TokenizerKind::unigram : data::TokenizerKind::bpe;
  flags.options.sample_bytes = parse_size_flag("--sample", flags.sample);
  flags.options.split_digits = !flags.merge_digits;
  flags.options.split_scripts = !flags.merge_scripts;
  data::DocumentStream documents(flags.corpus.options());
  ReadingProgress bar;
  std::int64_t count = 0;
  const std::string model = data::train_tokenizer(flags.options, documents, [&] {
    bar.update(documents.file_bytes_read(), documents.file_bytes_total(),
               concat(format_count(++count), " documents"));
  });
  bar.finish();
  make_folder(std::filesystem::path(flags.output).parent_path());
  try {
    write_file_durably(flags.output, model);
  } catch (const FileError& error) {
    throw UsageError(concat("tokenizer not written: ", error.what(), "; choose another --output"));
  }
  std::cout << "tokenizer   " << flags.options.vocab_size << " pieces (" << flags.kind << ") from " << count
            << " documents in " << documents.files() << " files\noutput      " << flags.output << '\n';
}

void add_train(CLI::App& parent) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = parent.add_subcommand("train", "learn a tokenizer that gives text back exactly");
  flags->corpus.add_to(*command);
  command->add_option("-o,--output", flags->output, "model file to write")->required();
  command->add_option("--vocab-size", flags->options.vocab_size, "number of tokens")->capture_default_str();
  command->add_option("--model", flags->kind, "kind of model")
      ->check(CLI::IsMember({"bpe", "unigram"}))
      ->capture_default_str();
  command->add_option("--sample", flags->sample, "text to learn from, drawn by hash from all of the input")
      ->capture_default_str();
  command->add_option("--max-piece", flags->options.max_piece_characters, "longest piece in characters")
      ->capture_default_str();
  command->add_flag("--merge-digits", flags->merge_digits, "let pieces hold several digits");
  command->add_flag("--merge-scripts", flags->merge_scripts,
                    "let pieces mix letters with punctuation or other scripts");
  command->add_flag("--force", flags->force, "replace the output file");
  command->callback([flags] { train(*flags); });
}

void export_model(const ExportFlags& flags) {
  const data::Tokenizer tokenizer = data::Tokenizer::load(flags.model);
  make_folder(flags.output);
  try {
    data::export_hf_tokenizer(tokenizer, flags.output);
  } catch (const FileError& error) {
    throw UsageError(concat("tokenizer not written: ", error.what(), "; choose another --output"));
  }
  std::cout << "output      " << flags.output << '\n';
}

void add_export(CLI::App& parent) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* command =
      parent.add_subcommand("export", "write tokenizer.json and tokenizer_config.json for Hugging Face");
  command->add_option("model", flags->model, "model made by 'kumiko tokenizer train'")->required();
  command->add_option("-o,--output", flags->output, "folder to write to")->required();
  command->callback([flags] { export_model(*flags); });
}

}  // namespace

void add_tokenizer(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenizer", "make tokenizers");
  command->require_subcommand(1);
  add_train(*command);
  add_export(*command);
}

}  // namespace kumiko::tools
