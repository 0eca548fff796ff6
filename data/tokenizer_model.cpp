// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer_model.hpp"

#include <bit>
#include <optional>

#include "framework/core/error.hpp"

namespace kumiko::data {
namespace {

struct Field {
  std::uint32_t number = 0;
  std::uint64_t value = 0;  // wire types 0, 1 and 5
  std::string_view bytes;   // wire type 2
};

// Walks the fields of one protocol buffer message.
class MessageReader {
 public:
  explicit MessageReader(std::string_view bytes) : rest_(bytes) {}

  bool done() const noexcept { return rest_.empty(); }

  // Nothing when the bytes are no message.
  std::optional<Field> next() {
    const auto key = varint();
    if (!key || (*key >> 3) == 0 || (*key >> 3) > 0x1FFFFFFF) return std::nullopt;
    Field field;
    field.number = static_cast<std::uint32_t>(*key >> 3);
    switch (*key & 7) {
      case 0: {
        const auto value = varint();
        if (!value) return std::nullopt;
        field.value = *value;
        return field;
      }
      case 1:
        return fixed(field, 8);
      case 5:
        return fixed(field, 4);
      case 2: {
        const auto length = varint();
        if (!length || *length > rest_.size()) return std::nullopt;
        field.bytes = rest_.substr(0, *length);
        rest_.remove_prefix(*length);
        return field;
      }
      default:
        return std::nullopt;
    }
  }

 private:
  std::optional<std::uint64_t> varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return std::nullopt;
  }

  std::optional<Field> fixed(Field field, std::size_t size) {
    if (rest_.size() < size) return std::nullopt;
    for (std::size_t i = 0; i < size; ++i) {
      field.value |= static_cast<std::uint64_t>(static_cast<unsigned char>(rest_[i])) << (8 * i);
    }
    rest_.remove_prefix(size);
    return field;
  }

  std::string_view rest_;
};

template <class Visit>
void for_each_field(std::string_view message, const std::string& origin, Visit&& visit) {
  for (MessageReader reader(message); !reader.done();) {
    const auto field = reader.next();
    KUMIKO_EXPECTS(field.has_value(), DataError, "'", origin,
                   "' is no SentencePiece model, or it is damaged; train one with 'kumiko tokenizer train'");
    visit(*field);
  }
}

Piece parse_piece(std::string_view message, const std::string& origin) {
  Piece piece;
  for_each_field(message, origin, [&](const Field& field) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
    if (field.number == 3) {
      KUMIKO_EXPECTS(field.value >= 1 && field.value <= 6, DataError, "'", origin,
                     "' has a piece of unknown kind ", field.value);
      piece.kind = static_cast<PieceKind>(field.value);
    }
  });
  return piece;
}

}  // namespace

TokenizerModel parse_tokenizer_model(std::string_view bytes, const std::string& origin) {
  TokenizerModel model;
  for_each_field(bytes, origin, [&](const Field& field) {
    if (field.number == 1) model.pieces.push_back(parse_piece(field.bytes, origin));
    if (field.number == 2) {
      for_each_field(field.bytes, origin, [&](const Field& trainer) {
        if (trainer.number == 3) model.model_type = static_cast<std::int64_t>(trainer.value);
      });
    }
    if (field.number == 3) {
      for_each_field(field.bytes, origin, [&](const Field& normalizer) {
        if (normalizer.number == 2) model.has_character_map = !normalizer.bytes.empty();
        if (normalizer.number == 3) model.add_dummy_prefix = normalizer.value != 0;
        if (normalizer.number == 4) model.remove_extra_whitespaces = normalizer.value != 0;
        if (normalizer.number == 5) model.escape_whitespaces = normalizer.value != 0;
      });
    }
  });
  KUMIKO_EXPECTS(!model.pieces.empty(), DataError, "'", origin,
                 "' is no SentencePiece model: it has no pieces; train one with 'kumiko tokenizer train'");
  return model;
}

}  // namespace kumiko::data
