// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, exactly: decode(encode(text)) == text for every valid UTF-8 text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace kumiko::data {

struct TokenizerModel;

// A SentencePiece model (BPE or unigram) that keeps text as it is: identity normalisation, no dummy prefix,
// all white space kept, 256 byte pieces for what it has no piece for. Immutable; safe to use from several
// threads.
class Tokenizer {
 public:
  // Throws DataError for a file that is missing, no model, or one that would change text (the message says
  // which rule).
  static Tokenizer load(const std::filesystem::path& path);
  static Tokenizer from_bytes(std::string model, const std::string& origin);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Throws DataError with the byte offset where `text` is not UTF-8. Never yields control tokens: "<s>" is
  // four characters.
  std::vector<std::int32_t> encode(std::string_view text) const;

  // Control tokens stand for no text. Ids can spell invalid UTF-8 (a cut character). Throws DataError for an
  // id that is outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;
  std::string_view bytes_of(std::int32_t id) const;  // the text of one token

  std::int64_t vocab_size() const noexcept;
  std::int32_t eos_id() const noexcept;
  std::int32_t bos_id() const noexcept;  // -1 when the model has none
  std::int32_t unk_id() const noexcept;
  const std::string& digest() const noexcept;       // SHA-256 of the model's bytes, hex
  const std::string& model_bytes() const noexcept;  // the file as SentencePiece reads it
  const TokenizerModel& model() const noexcept;

 private:
  friend class Encoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Encodes much text in one thread; remembers words it has seen (at most about 64 MiB). Borrows the tokenizer.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // Appends the ids of `text`, the same as Tokenizer::encode gives. Throws DataError as it does.
  void append(std::string_view text, std::vector<std::int32_t>& out);

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept {
      return std::hash<std::string_view>()(text);
    }
  };
  void append_word(std::string_view word, std::vector<std::int32_t>& out);

  const Tokenizer& tokenizer_;
  std::unordered_map<std::string, std::vector<std::int32_t>, Hash, std::equal_to<>> known_;
  std::vector<int> scratch_;
};

}  // namespace kumiko::data
