// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer_trainer.hpp"

#include <queue>
#include <string_view>
#include <unordered_map>

#include <sentencepiece_trainer.h>

#include "data/text_hash.hpp"
#include "data/tokenizer.hpp"
#include "framework/core/error.hpp"

namespace kumiko::data {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 16;
constexpr std::size_t kMaxSentenceBytes = 8192;

// First byte of a character at or before `position`.
std::size_t character_start(std::string_view text, std::size_t position) {
  while (position > 0 && position < text.size() &&
         (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80)
    --position;
  return position;
}

// Keeps the blocks with the smallest hashes whose sizes sum to at most the limit.
class Sample {
 public:
  explicit Sample(std::int64_t limit) : limit_(static_cast<std::size_t>(limit)) {}

  void add(std::string_view text) {
    while (!text.empty()) {
      const std::size_t end = block_end(text);
      push(text.substr(0, end));
      text.remove_prefix(end);
    }
  }

  // Smallest hash first.
  std::vector<std::string> take() {
    std::vector<std::string> texts;
    for (; !blocks_.empty(); blocks_.pop()) texts.push_back(blocks_.top().text);
    return {std::make_move_iterator(texts.rbegin()), std::make_move_iterator(texts.rend())};
  }

 private:
  struct Block {
    std::uint64_t hash = 0;
    std::string text;
    bool operator<(const Block& other) const {
      return std::tie(hash, text) < std::tie(other.hash, other.text);
    }
  };

  static std::size_t block_end(std::string_view text) {
    if (text.size() <= kBlockBytes) return text.size();
    const std::size_t line_end = text.rfind('\n', kBlockBytes - 1);
    return line_end != std::string_view::npos ? line_end + 1 : character_start(text, kBlockBytes);
  }

  void push(std::string_view text) {
    const std::uint64_t hash = hash_text(text).high;
    if (bytes_ + text.size() > limit_ && !blocks_.empty() && hash >= blocks_.top().hash) return;
    blocks_.push({hash, std::string(text)});
    bytes_ += text.size();
    while (bytes_ > limit_ && blocks_.size() > 1) {
      bytes_ -= blocks_.top().text.size();
      blocks_.pop();
    }
  }

  std::size_t limit_;
  std::size_t bytes_ = 0;
  std::priority_queue<Block> blocks_;
};

// Gives SentencePiece one line after the other, each with the line ends behind it, so that those can become
// pieces.
class LineIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(std::vector<std::string> texts) : texts_(std::move(texts)) { Next(); }

  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    while (text_ < texts_.size() && begin_ == texts_[text_].size()) {
      ++text_;
      begin_ = 0;
    }
    done_ = text_ == texts_.size();
    if (done_) return;
    const std::string_view text = texts_[text_];
    std::size_t end = std::min(text.find('\n', begin_), text.size());
    end = std::min(text.find_first_not_of('\n', end), text.size());
    if (end - begin_ > kMaxSentenceBytes) end = character_start(text, begin_ + kMaxSentenceBytes);
    line_.assign(text.substr(begin_, end - begin_));
    begin_ = end;
  }

 private:
  std::vector<std::string> texts_;
  std::size_t text_ = 0;
  std::size_t begin_ = 0;
  std::string line_;
  bool done_ = false;
};

std::unordered_map<std::string, std::string> arguments(const TokenizerOptions& options) {
  const auto flag = [](bool value) { return std::string(value ? "true" : "false"); };
  return {{"model_type", options.kind == TokenizerKind::bpe ? "bpe" : "unigram"},
          {"vocab_size", std::to_string(options.vocab_size)},
          {"max_sentencepiece_length", std::to_string(options.max_piece_characters)},
          {"split_digits", flag(options.split_digits)},
          {"split_by_unicode_script", flag(options.split_scripts)},
          {"byte_fallback", "true"},
          {"normalization_rule_name", "identity"},
          {"add_dummy_prefix", "false"},
          {"remove_extra_whitespaces", "false"},
          {"allow_whitespace_only_pieces", "true"},
          // SentencePiece uses a tab as a mark of its own while training, so tabs get pieces by name only.
          {"user_defined_symbols", "\t,\t\t,\t\t\t,\t\t\t\t"},
          {"character_coverage", "0.9999"},
          {"max_sentence_length", std::to_string(2 * kMaxSentenceBytes)},
          {"hard_vocab_limit", "false"},
          {"num_threads", "1"},
          {"minloglevel", "2"},
          {"unk_id", "0"},
          {"bos_id", "1"},
          {"eos_id", "2"},
          {"pad_id", "-1"}};
}

std::vector<std::string> draw_sample(const TokenizerOptions& options, DocumentStream& documents,
                                     const std::function<void()>& progress) {
  Sample sample(options.sample_bytes);
  Document document;
  while (documents.next(document)) {
    sample.add(document.text);
    if (progress) progress();
  }
  std::vector<std::string> texts = sample.take();
  KUMIKO_EXPECTS(!texts.empty(), DataError, "the input has no text to train a tokenizer on");
  return texts;
}

}  // namespace

std::string train_tokenizer(const TokenizerOptions& options, DocumentStream& documents,
                            const std::function<void()>& progress) {
  KUMIKO_EXPECTS(options.vocab_size >= 300 && options.vocab_size <= 1'000'000, UsageError, "vocabulary size ",
                 options.vocab_size, " is outside 300 to 1000000");
  KUMIKO_EXPECTS(options.sample_bytes > 0, UsageError, "the sample must have at least one byte");
  KUMIKO_EXPECTS(options.max_piece_characters >= 1 && options.max_piece_characters <= 256, UsageError,
                 "a piece of ", options.max_piece_characters, " characters is outside 1 to 256");
  LineIterator lines(draw_sample(options, documents, progress));
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments(options), &lines, &model);
  KUMIKO_EXPECTS(status.ok(), DataError, "the tokenizer cannot be trained on this text: ", status.ToString());
  const Tokenizer tokenizer = Tokenizer::from_bytes(model, "the new tokenizer");
  KUMIKO_EXPECTS(tokenizer.vocab_size() == options.vocab_size, DataError, "the text gives only ",
                 tokenizer.vocab_size(), " pieces, ", options.vocab_size,
                 " were asked for; give more text or a smaller --vocab-size");
  return model;
}

}  // namespace kumiko::data
