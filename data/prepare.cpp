// SPDX-License-Identifier: Apache-2.0
#include "data/prepare.hpp"

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

#include <ATen/Parallel.h>
#include <unistd.h>

#include "data/shard_folder.hpp"
#include "data/shard_writer.hpp"
#include "data/text_hash.hpp"
#include "data/tokenizer.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"

namespace kumiko::data {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kBatchBytes = std::int64_t{4} << 20;

bool is_number(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// "train-00012.h5", "val-00000.h5", "select-00000.h5".
bool is_shard_name(std::string_view name) {
  for (const std::string_view prefix : {"train-", "val-", "select-"}) {
    if (name.starts_with(prefix) && name.ends_with(".h5") && name.size() > prefix.size() + 3 &&
        is_number(name.substr(prefix.size(), name.size() - prefix.size() - 3))) {
      return true;
    }
  }
  return false;
}

// The folder: shards are written under partial names and all renamed at the end.
class Output {
 public:
  Output(const fs::path& folder, bool force) : folder_(folder) {
    KUMIKO_EXPECTS(::access(folder.c_str(), W_OK | X_OK) == 0, UsageError, "output folder '", folder.string(),
                   "' cannot be written: ", std::strerror(errno));
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (is_shard_name(name)) old_.push_back(entry.path());
      if (name.ends_with(kPartialShard) && is_shard_name(name.substr(0, name.size() - kPartialShard.size())))
        fs::remove(entry.path());
    }
    KUMIKO_EXPECTS(force || old_.empty(), UsageError, "output folder '", folder.string(), "' already has ",
                   old_.size(), " shards; choose another folder or replace them with --force");
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output() {
    std::error_code ignored;
    for (const fs::path& path : made_) fs::remove(partial(path), ignored);
  }

  ShardInfo write(ShardWriter& shard, const std::string& prefix, std::size_t number) {
    char digits[16];
    std::snprintf(digits, sizeof(digits), "%05zu", number);
    const fs::path path = folder_ / (prefix + "-" + digits + ".h5");
    made_.push_back(path);
    ShardInfo info = shard.write(partial(path));
    info.path = path;
    return info;
  }

  void publish() {
    try {
      publish_shards(folder_, old_, made_);
    } catch (const DataError&) {
      if (is_being_published(folder_)) made_.clear();  // the next one who locks the folder goes on with them
      throw;
    }
    made_.clear();
  }

 private:
  static fs::path partial(const fs::path& path) { return path.string() + std::string(kPartialShard); }

  fs::path folder_;
  std::vector<fs::path> old_;
  std::vector<fs::path> made_;
};

// The shards of one split, one open at a time.
class Split {
 public:
  Split(const Tokenizer& tokenizer, std::string name, std::string prefix, std::int64_t shard_tokens,
        Output& output)
      : writer_(tokenizer, std::move(name)),
        prefix_(std::move(prefix)),
        shard_tokens_(shard_tokens),
        output_(output) {}

  void add(std::span<const std::int32_t> ids, std::int64_t text_bytes) {
    writer_.add(ids, text_bytes);
    summary_.documents += 1;
    summary_.tokens += static_cast<std::int64_t>(ids.size()) + 1;
    summary_.text_bytes += text_bytes;
    if (writer_.tokens() >= shard_tokens_) close();
  }

  void close() {
    if (writer_.documents() == 0) return;
    summary_.shards.push_back(output_.write(writer_, prefix_, summary_.shards.size()));
  }

  const SplitSummary& summary() const noexcept { return summary_; }

 private:
  ShardWriter writer_;
  std::string prefix_;
  std::int64_t shard_tokens_;
  Output& output_;
  SplitSummary summary_;
};

enum Place : std::size_t { kTrain, kValidation, kSelection, kPlaces };

// By the text's hash, so that equal texts never lie in two splits. `high` decides the place in the set of hashes seen;
// `low` is independent of it.
Place place_of(const TextHash& hash, const PrepareOptions& options) {
  const double at = std::ldexp(static_cast<double>(hash.low), -64);
  if (at < options.validation_fraction) return kValidation;
  return at < options.validation_fraction + options.selection_fraction ? kSelection : kTrain;
}

struct Pending {
  Document document;
  Place place = kTrain;
  std::vector<std::int32_t> ids;
};

// Reads distinct documents until the batch is full; false when there are no more.
class Intake {
 public:
  Intake(DocumentStream& stream, const PrepareOptions& options) : stream_(stream), options_(options) {}

  std::vector<Pending> next_batch() {
    std::vector<Pending> batch;
    std::int64_t batch_bytes = 0;
    Pending pending;
    while (batch_bytes < kBatchBytes && !full() && stream_.next(pending.document)) {
      const TextHash hash = hash_text(pending.document.text);
      if (!seen_.insert(hash)) {
        ++duplicates_;
        continue;
      }
      pending.place = place_of(hash, options_);
      const auto bytes = static_cast<std::int64_t>(pending.document.text.size());
      batch_bytes += bytes;
      taken_bytes_ += bytes;
      batch.push_back(std::exchange(pending, {}));
    }
    return batch;
  }

  std::int64_t duplicates() const noexcept { return duplicates_; }

 private:
  bool full() const { return options_.max_bytes > 0 && taken_bytes_ >= options_.max_bytes; }

  DocumentStream& stream_;
  const PrepareOptions& options_;
  TextHashSet seen_;
  std::int64_t taken_bytes_ = 0;
  std::int64_t duplicates_ = 0;
};

void encode_batch(std::vector<Pending>& batch, std::vector<Encoder>& encoders) {
  at::parallel_for(0, static_cast<std::int64_t>(batch.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    Encoder& encoder = encoders[static_cast<std::size_t>(at::get_thread_num())];
    for (std::int64_t i = begin; i < end; ++i) {
      Pending& pending = batch[static_cast<std::size_t>(i)];
      encoder.append(pending.document.text, pending.ids);
    }
  });
}

void check(const PrepareOptions& options) {
  KUMIKO_EXPECTS(options.validation_fraction >= 0 && options.validation_fraction < 1, UsageError,
                 "validation fraction ", options.validation_fraction, " is outside [0, 1)");
  KUMIKO_EXPECTS(options.selection_fraction >= 0 && options.validation_fraction + options.selection_fraction < 1, UsageError,
                 "selection fraction ", options.selection_fraction, " and validation fraction ", options.validation_fraction,
                 " leave nothing to train on; together they must be below 1");
  KUMIKO_EXPECTS(options.shard_tokens > 0, UsageError, "a shard of ", options.shard_tokens,
                 " tokens cannot be made");
  KUMIKO_EXPECTS(options.max_bytes >= 0, UsageError, "a limit of ", options.max_bytes,
                 " bytes cannot be kept");
  KUMIKO_EXPECTS(options.documents.max_document_bytes > 0, UsageError, "documents of at most ",
                 options.documents.max_document_bytes, " bytes cannot be read");
}

}  // namespace

PrepareSummary prepare(const PrepareOptions& options,
                       const std::function<void(const PrepareProgress&)>& progress, const ShardFolderLock* held) {
  check(options);
  const Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  DocumentStream stream(options.documents);
  std::optional<ShardFolderLock> own;
  if (held == nullptr) own.emplace(options.output);
  Output output(options.output, options.force);
  std::array<Split, kPlaces> splits = {Split(tokenizer, "train", "train", options.shard_tokens, output),
                                       Split(tokenizer, "validation", "val", options.shard_tokens, output),
                                       Split(tokenizer, "selection", "select", options.shard_tokens, output)};
  Intake intake(stream, options);
  std::vector<Encoder> encoders(static_cast<std::size_t>(at::get_num_threads()), Encoder(tokenizer));

  for (std::vector<Pending> batch = intake.next_batch(); !batch.empty(); batch = intake.next_batch()) {
    encode_batch(batch, encoders);
    for (const Pending& pending : batch) {
      splits[pending.place].add(pending.ids, static_cast<std::int64_t>(pending.document.text.size()));
    }
    if (!progress) continue;
    PrepareProgress now{.file_bytes_read = stream.file_bytes_read(), .file_bytes_total = stream.file_bytes_total()};
    for (const Split& split : splits) {
      now.documents += split.summary().documents;
      now.tokens += split.summary().tokens;
      now.shards += static_cast<std::int64_t>(split.summary().shards.size());
    }
    progress(now);
  }
  KUMIKO_EXPECTS(splits[kTrain].summary().documents > 0, DataError, "no document for training: ", stream.files(),
                 " files gave ", splits[kValidation].summary().documents, " for validation, ", stream.skipped(),
                 " were skipped; give more text or a smaller --validation");
  for (Split& split : splits) split.close();
  output.publish();
  return {.files = stream.files(),
          .duplicates = intake.duplicates(),
          .skipped = stream.skipped(),
          .train = splits[kTrain].summary(),
          .validation = splits[kValidation].summary(),
          .selection = splits[kSelection].summary()};
}

}  // namespace kumiko::data
