// SPDX-License-Identifier: Apache-2.0
// 8-bit integers on plain memory, as quant/cpu/codebook4_simd.hpp has 4-bit codebooks. What is computed:
// quant/int8_kernels.hpp.
#pragma once

#include <cstdint>
#include <optional>

#include "quant/cpu/element.hpp"

namespace kumiko::quant::cpu {

void int8_encode_blocks(const void* dense, Element type, std::int64_t first, std::int64_t numel,
                        std::int64_t block_size, std::optional<std::uint64_t> seed, std::int8_t* codes,
                        float* absmax);

void int8_decode_blocks(const std::int8_t* codes, const float* absmax, std::int64_t numel,
                        std::int64_t block_size, void* out, Element type);

}  // namespace kumiko::quant::cpu
