// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include <sentencepiece_processor.h>

#include "data/tokenizer_model.hpp"
#include "data/utf8.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/sha256.hpp"

namespace kumiko::data {
namespace {

// SentencePiece writes a space as U+2581 inside pieces and would read a real U+2581 as a space.
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
constexpr std::size_t kMaxModelBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxKnownWords = std::size_t{1} << 18;
constexpr std::size_t kMaxKnownWordBytes = 64;

std::string replace_marks(std::string_view piece) {
  std::string text;
  for (std::size_t i = 0; i < piece.size();) {
    const bool mark = piece.substr(i, kSpaceMark.size()) == kSpaceMark;
    text.push_back(mark ? ' ' : piece[i]);
    i += mark ? kSpaceMark.size() : 1;
  }
  return text;
}

// The value of "<0x0A>".
std::optional<unsigned> byte_value(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece.back() != '>') return std::nullopt;
  unsigned value = 0;
  for (const char c : piece.substr(3, 2)) {
    const std::size_t digit = std::string_view("0123456789ABCDEF").find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    value = 16 * value + static_cast<unsigned>(digit);
  }
  return value;
}

// Words are encoded one by one, so no piece may hold a space after another character.
bool crosses_words(std::string_view text) {
  const std::size_t first_other = text.find_first_not_of(' ');
  return first_other != std::string_view::npos && text.find(' ', first_other) != std::string_view::npos;
}

}  // namespace

struct Tokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
  TokenizerModel model;
  std::string bytes;
  std::string digest;
  std::vector<std::string> texts;  // what each id stands for
  std::array<std::int32_t, 256> byte_ids{};
  std::int32_t bos = -1;
  std::int32_t eos = -1;
  std::int32_t unk = -1;

  void index(const std::string& origin);
};

void Tokenizer::Impl::index(const std::string& origin) {
  constexpr const char* kAdvice = "; train one with 'kumiko tokenizer train'";
  KUMIKO_EXPECTS(model.model_type == 1 || model.model_type == 2, DataError, "tokenizer '", origin,
                 "' is neither BPE nor unigram", kAdvice);
  KUMIKO_EXPECTS(
      !model.has_character_map && !model.add_dummy_prefix && !model.remove_extra_whitespaces &&
          model.escape_whitespaces,
      DataError, "tokenizer '", origin,
      "' changes text (normalisation, a prefix space or removal of white space), so text would not come back",
      kAdvice);
  byte_ids.fill(-1);
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const Piece& piece = model.pieces[i];
    std::string text;
    if (piece.kind == PieceKind::byte) {
      const auto value = byte_value(piece.text);
      KUMIKO_EXPECTS(value.has_value(), DataError, "tokenizer '", origin, "' has an unreadable byte piece ",
                     id);
      byte_ids[*value] = id;
      text.push_back(static_cast<char>(*value));
    } else if (piece.kind == PieceKind::normal || piece.kind == PieceKind::user_defined) {
      text = replace_marks(piece.text);
      KUMIKO_EXPECTS(!crosses_words(text), DataError, "tokenizer '", origin, "' has a piece across words ('",
                     text, "')", kAdvice);
    }
    texts.push_back(std::move(text));
  }
  for (const std::int32_t id : byte_ids) {
    KUMIKO_EXPECTS(id >= 0, DataError, "tokenizer '", origin,
                   "' lacks byte pieces, so some text would be lost", kAdvice);
  }
  bos = processor.bos_id();
  eos = processor.eos_id();
  unk = processor.unk_id();
  KUMIKO_EXPECTS(eos >= 0, DataError, "tokenizer '", origin, "' has no end-of-document token", kAdvice);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  try {
    const std::vector<std::byte> bytes = read_file(path, kMaxModelBytes);
    return from_bytes(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), path.string());
  } catch (const FileError& error) {
    throw DataError(concat("tokenizer: ", error.what(), "; make one with 'kumiko tokenizer train'"));
  }
}

Tokenizer Tokenizer::from_bytes(std::string model, const std::string& origin) {
  auto impl = std::make_unique<Impl>();
  impl->model = parse_tokenizer_model(model, origin);
  const auto status = impl->processor.LoadFromSerializedProto(model);
  KUMIKO_EXPECTS(status.ok(), DataError, "tokenizer '", origin, "' cannot be used: ", status.ToString());
  KUMIKO_EXPECTS(impl->processor.GetPieceSize() == static_cast<int>(impl->model.pieces.size()), DataError,
                 "tokenizer '", origin, "' is damaged: its pieces are counted in two ways");
  impl->index(origin);
  impl->digest = Sha256().update(model).hex();
  impl->bytes = std::move(model);
  return Tokenizer(std::move(impl));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  Encoder(*this).append(text, ids);
  return ids;
}

std::string_view Tokenizer::bytes_of(std::int32_t id) const {
  KUMIKO_EXPECTS(id >= 0 && id < vocab_size(), DataError, "token id ", id, " is outside the vocabulary of ",
                 vocab_size());
  return impl_->texts[static_cast<std::size_t>(id)];
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += bytes_of(id);
  return text;
}

std::int64_t Tokenizer::vocab_size() const noexcept { return static_cast<std::int64_t>(impl_->texts.size()); }
std::int32_t Tokenizer::eos_id() const noexcept { return impl_->eos; }
std::int32_t Tokenizer::bos_id() const noexcept { return impl_->bos; }
std::int32_t Tokenizer::unk_id() const noexcept { return impl_->unk; }
const std::string& Tokenizer::digest() const noexcept { return impl_->digest; }
const std::string& Tokenizer::model_bytes() const noexcept { return impl_->bytes; }
const TokenizerModel& Tokenizer::model() const noexcept { return impl_->model; }

void Encoder::append_word(std::string_view word, std::vector<std::int32_t>& out) {
  if (const auto found = known_.find(word); found != known_.end()) {
    out.insert(out.end(), found->second.begin(), found->second.end());
    return;
  }
  const auto status = tokenizer_.impl_->processor.Encode(word, &scratch_);
  KUMIKO_EXPECTS(status.ok(), DataError, "the tokenizer cannot encode a text: ", status.ToString());
  KUMIKO_EXPECTS(std::find(scratch_.begin(), scratch_.end(), tokenizer_.unk_id()) == scratch_.end(),
                 DataError, "the tokenizer has no pieces for '", word.substr(0, 80),
                 "': it was trained without byte fallback");
  out.insert(out.end(), scratch_.begin(), scratch_.end());
  if (word.size() <= kMaxKnownWordBytes && known_.size() < kMaxKnownWords) {
    known_.emplace(word, std::vector<std::int32_t>(scratch_.begin(), scratch_.end()));
  }
}

void Encoder::append(std::string_view text, std::vector<std::int32_t>& out) {
  if (const auto offset = find_invalid_utf8(text)) {
    throw DataError(concat("text is not UTF-8: bad byte at offset ", *offset));
  }
  std::size_t begin = 0;
  const auto flush = [&](std::size_t end) {
    if (end > begin) append_word(text.substr(begin, end - begin), out);
    begin = end;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ' && i > begin && text[i - 1] != ' ') {
      flush(i);
    } else if (text[i] == kSpaceMark[0] && text.substr(i, kSpaceMark.size()) == kSpaceMark) {
      flush(i);
      for (const char c : kSpaceMark)
        out.push_back(tokenizer_.impl_->byte_ids[static_cast<unsigned char>(c)]);
      begin = i + kSpaceMark.size();
      i = begin - 1;
    }
  }
  flush(text.size());
}

}  // namespace kumiko::data
