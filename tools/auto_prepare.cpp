// SPDX-License-Identifier: Apache-2.0
#include "tools/auto_prepare.hpp"

#include <filesystem>

#include "data/prepare.hpp"
#include "data/tokenizer_trainer.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/format.hpp"
#include "framework/core/log.hpp"

namespace kumiko::tools {
namespace {

bool has_shards(const std::vector<std::string>& patterns) {
  try {
    data::expand_shards(patterns);
    return true;
  } catch (const DataError&) {
    return false;
  }
}

}  // namespace

std::optional<AutoPrepare> AutoPrepare::parse(const ConfigNode& data) {
  if (!data.has("prepare")) return std::nullopt;
  const ConfigNode node = data.child("prepare");
  AutoPrepare options;
  options.inputs = node.texts("inputs", {});
  if (options.inputs.empty()) node.fail("inputs", "names no file or folder");
  options.suffixes = node.texts("suffixes", data::kDefaultSuffixes);
  options.vocab_size = node.integer("vocab_size", options.vocab_size, {300, 1 << 20});
  options.validation = node.real("validation", options.validation, {0.0, 0.9});
  options.selection = node.real("selection", options.selection, {0.0, 0.9});
  if (options.validation + options.selection >= 1.0) {
    node.fail("selection", concat(options.selection, " and validation ", options.validation, " leave nothing to train on"));
  }
  options.max_bytes = node.bytes("max_bytes", "0");
  return options;
}

bool shards_missing(const data::DataOptions& data) { return !has_shards(data.train); }

void prepare_missing_shards(const AutoPrepare& options, const data::DataOptions& data) {
  if (!shards_missing(data)) return;
  const std::filesystem::path folder = std::filesystem::path(data.train.front()).parent_path();
  const std::filesystem::path tokenizer_file = folder / "tokenizer.model";
  data::DocumentOptions documents;
  documents.inputs.assign(options.inputs.begin(), options.inputs.end());
  documents.suffixes = options.suffixes;
  data::DocumentStream stream(documents);
  const data::ShardFolderLock lock(folder.empty() ? "." : folder);
  if (!shards_missing(data)) return;  // another command has made them
  KUMIKO_EXPECTS(!has_shards({(folder / "*.h5").string()}), DataError, "no shard matches '", data.train.front(), "', but '", folder.string(),
                 "' has others; correct data.train, or remove them to have all prepared again");
  log::info(concat("no shards match ", data.train.front(), ": preparing them"));
  data::TokenizerOptions tokenizer;
  tokenizer.vocab_size = options.vocab_size;
  const std::string model = data::train_tokenizer(tokenizer, stream);
  write_file_durably(tokenizer_file, model);
  data::PrepareOptions prepare;
  prepare.documents = documents;
  prepare.tokenizer = tokenizer_file;
  prepare.output = folder;
  prepare.validation_fraction = options.validation;
  prepare.selection_fraction = options.selection;
  prepare.max_bytes = options.max_bytes;
  const data::PrepareSummary summary = data::prepare(prepare, {}, &lock);
  log::info(concat("prepared ", summary.train.documents, " documents, ", format_count(summary.train.tokens), " tokens to train on and ",
                   format_count(summary.validation.tokens), " to validate with, in ", folder.string()));
}

}  // namespace kumiko::tools
