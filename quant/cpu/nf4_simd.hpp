// SPDX-License-Identifier: Apache-2.0
// NF4 on plain memory, for the best instruction set of the machine that runs it; one thread. A range begins
// at a block; its last block may be short. What is computed: quant/nf4_kernels.hpp.
#pragma once

#include <cstdint>

namespace kumiko::quant::cpu {

enum class Element { fp32, bf16, fp16 };

// Whether this machine has an instruction set that the functions below were compiled for (on x86 SSE4 or
// better). They must not be called where it has none.
bool has_simd();

// numel elements -> ceil(numel / 2) bytes of codes, ceil(numel / block_size) scales.
void encode_blocks(const void* dense, Element type, std::int64_t numel, std::int64_t block_size,
                   std::uint8_t* codes, float* absmax);

void decode_blocks(const std::uint8_t* codes, const float* absmax, std::int64_t numel,
                   std::int64_t block_size, void* out, Element type);

}  // namespace kumiko::quant::cpu
