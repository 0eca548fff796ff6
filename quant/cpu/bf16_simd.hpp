// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace kumiko::quant::cpu {

// fp32 to bf16 bits with stochastic rounding (quant/stochastic.hpp), one thread, any machine. first: index of
// the first element in its tensor, even.
void stochastic_bf16(const float* from, std::int64_t first, std::int64_t numel, std::uint64_t seed,
                     std::uint16_t* to);

}  // namespace kumiko::quant::cpu
