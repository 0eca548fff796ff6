// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "data/documents.hpp"

namespace kumiko::data {

enum class TokenizerKind { bpe, unigram };

struct TokenizerOptions {
  TokenizerKind kind = TokenizerKind::bpe;
  std::int64_t vocab_size = 4096;  // at least 300: 256 bytes, 3 special tokens, 4 runs of tabs, some text
  std::int64_t sample_bytes = 10'000'000;  // of text taken from the documents
  std::int64_t max_piece_characters = 16;
  bool split_digits = true;   // each digit is its own token
  bool split_scripts = true;  // no piece mixes letters of two scripts, or letters with punctuation
};

// Ids: 0 unknown, 1 begin, 2 end of document, as LLaMA has them. Reads all documents and keeps a sample of
// about `sample_bytes`: the blocks with the smallest hashes, so it depends on the texts, not on their order.
// The same documents and options give the same bytes. Runs of spaces and line ends become pieces. Returns the
// model file's bytes. Throws DataError when the documents hold no text or too little of it for the
// vocabulary, UsageError for options out of range. `progress` is called after each document.
std::string train_tokenizer(const TokenizerOptions& options, DocumentStream& documents,
                            const std::function<void()>& progress = {});

}  // namespace kumiko::data
