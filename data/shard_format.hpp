// SPDX-License-Identifier: Apache-2.0
// The shard file: a header of 512 bytes, then an HDF5 image, which HDF5 tools find as behind any user block.
//
//   header   0  "KUMSHARD"            8  u32 version       12  u32 header bytes (512)
//           16  u64 image bytes      24  SHA-256 of the image
//           56  zero                480  SHA-256 of bytes 0 to 479
//   image   tokens            u16 (vocabulary up to 65536) or u32, [tokens]: each document with its EOS
//           document_offsets  i64 [documents + 1]: first token of each document; last: the number of tokens
//           token_counts      i64 [vocab_size]: how often each id occurs in `tokens`
//           tokenizer         u8 [..]: the SentencePiece model
//           attributes        integers vocab_size, eos_id, text_bytes; texts split,
//                             tokenizer_digest, content_digest
//
// Numbers are little-endian. The digest of the whole image is checked before HDF5 sees a byte of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace kumiko::data {

inline constexpr std::string_view kShardMagic = "KUMSHARD";
inline constexpr std::uint32_t kShardVersion = 1;
inline constexpr std::size_t kShardHeaderBytes = 512;
inline constexpr std::size_t kShardHeaderDigest = 480;
inline constexpr std::int64_t kMaxVocabSize = std::int64_t{1} << 24;

struct ShardInfo {
  std::filesystem::path path;
  std::uint32_t version = kShardVersion;
  std::string split;  // "train", "validation" or "selection"
  std::int64_t documents = 0;
  std::int64_t tokens = 0;      // with one EOS a document
  std::int64_t text_bytes = 0;  // UTF-8 bytes of the documents
  std::int64_t vocab_size = 0;
  std::int32_t eos_id = 0;
  std::string tokenizer_digest;  // SHA-256 of the tokenizer's model, hex
  std::string content_digest;    // SHA-256 over tokens, document borders and the facts above, hex
  std::int64_t file_bytes = 0;
};

}  // namespace kumiko::data
