// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "data/tokenizer.hpp"

namespace kumiko::data {

// Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json to `folder`, which is made if need
// be. With a BPE model `transformers` then gives the ids of Tokenizer::encode, but for two things its format
// cannot say: it takes a literal "<s>" for the token and U+2581 for a space. With a unigram model it may
// besides choose other pieces of the same total score. Throws FileError or std::filesystem::filesystem_error.
void export_hf_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder);

}  // namespace kumiko::data
