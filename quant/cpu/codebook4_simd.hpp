// SPDX-License-Identifier: Apache-2.0
// 4-bit codebooks on plain memory, for the best instruction set of the machine that runs it; one thread. A
// range begins at a block; its last block may be short. What is computed: quant/codebook4_kernels.hpp.
#pragma once

#include <cstdint>
#include <optional>

#include "quant/codebook4.hpp"
#include "quant/cpu/element.hpp"

namespace kumiko::quant::cpu {

// Whether this machine has an instruction set that the vectorised functions were compiled for (on x86 SSE4 or
// better). They must not be called where it has none.
bool has_simd();

// numel elements -> ceil(numel / 2) bytes of codes, ceil(numel / block_size) scales. first: index of the
// first element in its tensor.
void codebook4_encode_blocks(const Codebook4& book, const void* dense, Element type, std::int64_t first,
                             std::int64_t numel, std::int64_t block_size, std::optional<std::uint64_t> seed,
                             std::uint8_t* codes, float* absmax);

void codebook4_decode_blocks(const Codebook4& book, const std::uint8_t* codes, const float* absmax,
                             std::int64_t numel, std::int64_t block_size, void* out, Element type);

}  // namespace kumiko::quant::cpu
