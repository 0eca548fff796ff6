// SPDX-License-Identifier: Apache-2.0
#include "quant/codec.hpp"

#include <array>
#include <string>

#include "framework/core/error.hpp"
#include "quant/fp4_codec.hpp"
#include "quant/int4_codec.hpp"
#include "quant/int8_codec.hpp"
#include "quant/nf4_codec.hpp"

namespace kumiko::quant {
namespace {

constexpr std::int64_t kMinBlockSize = 32;
constexpr std::int64_t kMaxBlockSize = 4096;

const auto& codec_table() {
  static const std::array table = {
      Codec{.kind = CodecKind::none, .name = "none", .bits = 0, .encode = nullptr, .decode = nullptr},
      nf4_codec(),
      fp4_codec(),
      int4_codec(),
      int8_codec(),
  };
  return table;
}

}  // namespace

const Codec& codec_of(CodecKind kind) {
  for (const Codec& codec : codec_table()) {
    if (codec.kind == kind) return codec;
  }
  throw UsageError(concat("unknown codec number ", static_cast<int>(kind)));
}

CodecKind parse_codec(std::string_view name) {
  std::string known;
  for (const Codec& codec : codec_table()) {
    if (codec.name == name) return codec.kind;
    known.append(known.empty() ? "" : ", ").append(codec.name);
  }
  throw UsageError(concat("unknown quantization '", name, "'; known: ", known));
}

std::vector<std::string_view> codec_names() {
  std::vector<std::string_view> names;
  for (const Codec& codec : codec_table()) names.push_back(codec.name);
  return names;
}

void validate(const QuantFormat& format) {
  codec_of(format.codec);
  const std::int64_t size = format.block_size;
  KUMIKO_EXPECTS(size >= kMinBlockSize && size <= kMaxBlockSize && (size & (size - 1)) == 0, UsageError,
                 "block size ", size, " is not a power of two from ", kMinBlockSize, " to ", kMaxBlockSize);
}

std::string describe(const QuantFormat& format) {
  const Codec& codec = codec_of(format.codec);
  if (codec.bits == 0) return std::string(codec.name);
  return concat(codec.name, ", block ", format.block_size,
                format.double_quant ? ", double quantization" : "");
}

}  // namespace kumiko::quant
