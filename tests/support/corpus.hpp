// SPDX-License-Identifier: Apache-2.0
// A small made-up corpus, a tokenizer trained on it once in a process, and shards with chosen tokens.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/documents.hpp"
#include "data/shard_writer.hpp"
#include "data/tokenizer.hpp"
#include "data/tokenizer_trainer.hpp"
#include "framework/core/rng.hpp"
#include "tests/support/files.hpp"
#include "tests/support/temp_folder.hpp"

namespace kumiko::test {

// Text like code: names, calls, indentation, tabs, numbers, some letters beyond ASCII. Other `number`, other
// text.
inline std::string made_up_code(std::uint64_t number, int lines = 40) {
  static const std::vector<std::string> kSyllables{"al",  "be", "con", "data", "el",  "fin", "ger",
                                                   "grö", "in", "ko",  "lim",  "mer", "num", "or",
                                                   "put", "ra", "set", "ten",  "up",  "vec"};
  std::uint64_t state = mix64(number + 1);
  const auto pick = [&state](std::uint64_t count) {
    return (state = mix64(state + 0x9e3779b97f4a7c15ULL)) % count;
  };
  const auto name = [&pick] {
    std::string made;
    for (std::uint64_t i = 1 + pick(3); i > 0; --i)
      made += kSyllables[pick(pick(2) == 0 ? 6 : kSyllables.size())];
    return made;
  };
  std::string text = "def " + name() + "_" + std::to_string(number) + "(self, " + name() + "):\n";
  for (int line = 0; line < lines; ++line) {
    text += std::string(4 + 4 * pick(3), ' ') + name() + " = " + name() + "." + name() + "(" +
            std::to_string(pick(1000)) + ")";
    text += pick(5) == 0 ? "\n\n" : pick(7) == 0 ? "\t# note\n" : "\n";
  }
  return text;
}

inline std::string train_small_model(std::int64_t vocab_size = 360,
                                     data::TokenizerKind kind = data::TokenizerKind::bpe) {
  const TempFolder folder;
  for (std::uint64_t i = 0; i < 40; ++i)
    write_text(folder.path() / (std::to_string(i) + ".txt"), made_up_code(i));
  data::DocumentStream documents({.inputs = {folder.path()}});
  return data::train_tokenizer({.kind = kind, .vocab_size = vocab_size}, documents);
}

inline const data::Tokenizer& small_tokenizer() {
  static const data::Tokenizer tokenizer = data::Tokenizer::from_bytes(train_small_model(), "small");
  return tokenizer;
}

// One shard whose document d holds the ids of documents[d]; EOS is added.
inline data::ShardInfo write_shard(const std::filesystem::path& path,
                                   const std::vector<std::vector<std::int32_t>>& documents,
                                   const std::string& split = "train",
                                   const data::Tokenizer& tokenizer = small_tokenizer()) {
  data::ShardWriter writer(tokenizer, split);
  for (const auto& ids : documents) writer.add(ids, static_cast<std::int64_t>(ids.size()));
  return writer.write(path);
}

// Runs `body` and gives back the message of the `E` it throws; "" when it throws none.
template <class E, class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

}  // namespace kumiko::test
