// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quant/codebook4.hpp"
#include "quant/codec.hpp"

namespace kumiko::quant {

// Signed 4-bit integers, symmetric: code k + 8 is k / 7 for k from -7 to 7. No element takes code 0, which
// decodes to -8 / 7.
inline constexpr Codebook4 kInt4Codebook = [] {
  std::array<float, 16> values{};
  for (int code = 0; code < 16; ++code)
    values[static_cast<std::size_t>(code)] = static_cast<float>(code - 8) / 7.0f;
  return make_codebook4(values, kAscending, 1);
}();

Codec int4_codec();

}  // namespace kumiko::quant
