// SPDX-License-Identifier: Apache-2.0
// Scales of a block codec: fp32, or quantized once more to 8 bit (double quantization, QLoRA, arXiv
// 2305.14314, section 3).
#pragma once

#include <array>
#include <cstdint>

#include <ATen/core/Tensor.h>

namespace kumiko::quant {

// The dynamic 8-bit data type (arXiv 1511.04561; 2110.02861, section 2): a run-length exponent in powers of
// ten and a linear fraction. Ascending; each value is the middle of its interval, beside an exact 0 and 1.
// The signed map runs from -0.9929687 to 1, the unsigned one, for second moments, from 0 to 1.
const std::array<float, 256>& signed_dynamic_map();
const std::array<float, 256>& unsigned_dynamic_map();

// Borders between neighbours of a map, their fp32 midpoints; a value on a border takes the lower code.
std::array<float, 255> map_thresholds(const std::array<float, 256>& map);

inline constexpr std::int64_t kScaleGroup = 256;

// Plain: values fp32 [blocks], the rest undefined. Doubled: values uint8 [blocks], codes of (scale - offset)
// in the signed dynamic map with one absmax for each group of kScaleGroup; offset fp32 [1] is the mean scale.
struct Scales {
  at::Tensor values;
  at::Tensor offset;
  at::Tensor group_absmax;  // fp32 [ceil(blocks / kScaleGroup)]

  bool doubled() const { return offset.defined(); }
};

// Uninitialised scales for `blocks` blocks.
Scales empty_scales(std::int64_t blocks, bool double_quant, at::Device device);

// scales: fp32 [blocks]. The offset is the fp64 mean rounded to fp32, in an order that no thread count
// changes. A scale that is not finite makes the offset, and so every decoded scale, NaN or infinite.
Scales encode_scales(const at::Tensor& scales);

// fp32 [blocks], newly made for doubled scales, the stored tensor for plain ones.
at::Tensor decode_scales(const Scales& scales);

}  // namespace kumiko::quant
