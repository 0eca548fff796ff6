// SPDX-License-Identifier: Apache-2.0
// The seam through which block codecs join: by a value of CodecKind, a file pair and a row of the table in
// codec.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "quant/scale_codec.hpp"

namespace kumiko::quant {

enum class CodecKind : std::uint8_t { none, nf4, fp4, int4, int8 };

struct QuantFormat {
  CodecKind codec = CodecKind::nf4;
  std::int64_t block_size = 64;  // elements that share a scale: a power of two, 32 to 4096
  bool double_quant = true;      // scales as 8-bit codes, one fp32 scale for each 256 of them

  // Formats without codes are equal whatever their block size.
  friend bool operator==(const QuantFormat& a, const QuantFormat& b) noexcept {
    if (a.codec != b.codec) return false;
    return a.codec == CodecKind::none || (a.block_size == b.block_size && a.double_quant == b.double_quant);
  }
};

// A codec cuts the flat, row-major tensor into blocks (the last may be short), and keeps one code of `bits`
// bits for each element and one fp32 scale for each block. Both functions choose the kernel of the tensors'
// device.
struct Codec {
  CodecKind kind;
  std::string_view name;  // in recipes and checkpoints
  std::int64_t bits;      // of one code; 0: the dense tensor is kept and there are no functions

  // dense: contiguous fp32, bf16 or fp16 [n]; codes: uint8 [code_bytes(n)]; scales: fp32 [ceil(n /
  // block_size)]. With a seed, stochastic rounding (QuantizedTensor::quantize).
  void (*encode)(const at::Tensor& dense, std::int64_t block_size, std::optional<std::uint64_t> seed,
                 at::Tensor& codes, at::Tensor& scales);
  // out: contiguous fp32, bf16 or fp16 [n].
  void (*decode)(const at::Tensor& codes, const Scales& scales, std::int64_t block_size, at::Tensor& out);

  std::int64_t code_bytes(std::int64_t numel) const noexcept { return (numel * bits + 7) / 8; }
};

const Codec& codec_of(CodecKind kind);

// Throws UsageError that lists the known names.
CodecKind parse_codec(std::string_view name);

std::vector<std::string_view> codec_names();

// Throws UsageError unless the block size is a power of two from 32 to 4096.
void validate(const QuantFormat& format);

// "nf4, block 64, double quantization"
std::string describe(const QuantFormat& format);

}  // namespace kumiko::quant
