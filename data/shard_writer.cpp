// SPDX-License-Identifier: Apache-2.0
#include "data/shard_writer.hpp"

#include <array>
#include <cstring>

#include "data/h5.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/sha256.hpp"

namespace kumiko::data {
namespace {

std::array<std::byte, kShardHeaderBytes> make_header(std::span<const std::byte> image) {
  std::array<std::byte, kShardHeaderBytes> header{};
  const std::uint32_t version = kShardVersion;
  const std::uint32_t header_bytes = kShardHeaderBytes;
  const std::uint64_t image_bytes = image.size();
  const auto image_digest = Sha256().update(image).digest();
  std::memcpy(header.data(), kShardMagic.data(), kShardMagic.size());
  std::memcpy(header.data() + 8, &version, 4);
  std::memcpy(header.data() + 12, &header_bytes, 4);
  std::memcpy(header.data() + 16, &image_bytes, 8);
  std::memcpy(header.data() + 24, image_digest.data(), image_digest.size());
  const auto digest = Sha256().update(std::span(header).first(kShardHeaderDigest)).digest();
  std::memcpy(header.data() + kShardHeaderDigest, digest.data(), digest.size());
  return header;
}

}  // namespace

ShardWriter::ShardWriter(const Tokenizer& tokenizer, std::string split)
    : tokenizer_(tokenizer), split_(std::move(split)), narrow_(tokenizer.vocab_size() <= 65536) {
  KUMIKO_EXPECTS(tokenizer.vocab_size() <= kMaxVocabSize, DataError, "a vocabulary of ",
                 tokenizer.vocab_size(), " is over the limit of ", kMaxVocabSize);
  clear();
}

void ShardWriter::clear() {
  tokens16_.clear();
  tokens32_.clear();
  offsets_.assign(1, 0);
  counts_.assign(static_cast<std::size_t>(tokenizer_.vocab_size()), 0);
  text_bytes_ = 0;
}

void ShardWriter::add(std::span<const std::int32_t> ids, std::int64_t text_bytes) {
  if (ids.empty()) return;
  const auto put = [this](std::int32_t id) {
    ++counts_[static_cast<std::size_t>(id)];
    if (narrow_) {
      tokens16_.push_back(static_cast<std::uint16_t>(id));
    } else {
      tokens32_.push_back(static_cast<std::uint32_t>(id));
    }
  };
  for (const std::int32_t id : ids) {
    KUMIKO_EXPECTS(id >= 0 && id < tokenizer_.vocab_size(), DataError, "token id ", id,
                   " is outside the vocabulary of ", tokenizer_.vocab_size());
  }
  for (const std::int32_t id : ids) put(id);
  put(tokenizer_.eos_id());
  offsets_.push_back(offsets_.back() + static_cast<std::int64_t>(ids.size()) + 1);
  text_bytes_ += text_bytes;
}

std::span<const std::byte> ShardWriter::token_bytes() const noexcept {
  return narrow_ ? std::as_bytes(std::span(tokens16_)) : std::as_bytes(std::span(tokens32_));
}

ShardInfo ShardWriter::write(const std::filesystem::path& path) {
  ShardInfo info{.path = path,
                 .split = split_,
                 .documents = documents(),
                 .tokens = tokens(),
                 .text_bytes = text_bytes_,
                 .vocab_size = tokenizer_.vocab_size(),
                 .eos_id = tokenizer_.eos_id(),
                 .tokenizer_digest = tokenizer_.digest()};
  Sha256 content;
  content.update(concat("kumiko shard content 1\n", split_, '\n', info.tokenizer_digest, '\n',
                        info.vocab_size, ' ', info.eos_id, ' ', info.documents, ' ', info.tokens, ' ',
                        info.text_bytes, '\n'));
  content.update(token_bytes()).update(std::as_bytes(std::span(offsets_)));
  info.content_digest = content.hex();

  H5ImageWriter image;
  const auto vector_of = [&image](std::string_view name, const void* data, H5Dtype dtype,
                                  std::int64_t count) {
    image.dataset(name, data, dtype, std::span(&count, 1));
  };
  image.attribute("vocab_size", info.vocab_size);
  image.attribute("eos_id", std::int64_t{info.eos_id});
  image.attribute("text_bytes", info.text_bytes);
  image.attribute("split", std::string_view(info.split));
  image.attribute("tokenizer_digest", std::string_view(info.tokenizer_digest));
  image.attribute("content_digest", std::string_view(info.content_digest));
  const std::string& model = tokenizer_.model_bytes();
  vector_of("tokenizer", model.data(), H5Dtype::u8, static_cast<std::int64_t>(model.size()));
  vector_of("token_counts", counts_.data(), H5Dtype::i64, info.vocab_size);
  vector_of("document_offsets", offsets_.data(), H5Dtype::i64, info.documents + 1);
  vector_of("tokens", token_bytes().data(), narrow_ ? H5Dtype::u16 : H5Dtype::u32, info.tokens);
  clear();

  const std::vector<std::byte> bytes = image.finish();
  const auto header = make_header(bytes);
  const std::array<std::span<const std::byte>, 2> parts{header, bytes};
  try {
    write_file_durably(path, parts);
  } catch (const FileError& error) {
    throw DataError(concat("shard not written: ", error.what(), "; free space or choose another --output"));
  }
  info.file_bytes = static_cast<std::int64_t>(header.size() + bytes.size());
  return info;
}

}  // namespace kumiko::data
