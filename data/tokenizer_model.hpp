// SPDX-License-Identifier: Apache-2.0
// What a SentencePiece model file says, read without SentencePiece: its library hides the kinds of pieces and
// the normalisation, and both decide whether text comes back exactly.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kumiko::data {

enum class PieceKind : int { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct Piece {
  std::string text;
  float score = 0.0F;
  PieceKind kind = PieceKind::normal;
};

struct TokenizerModel {
  std::vector<Piece> pieces;
  std::int64_t model_type = 1;  // 1 unigram, 2 BPE, 3 word, 4 char
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool has_character_map = false;
};

// Parses the protocol buffer `ModelProto`. Throws DataError naming `origin` for bytes that are none.
TokenizerModel parse_tokenizer_model(std::string_view bytes, const std::string& origin);

}  // namespace kumiko::data
