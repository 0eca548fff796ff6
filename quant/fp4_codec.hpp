// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quant/codebook4.hpp"
#include "quant/codec.hpp"

namespace kumiko::quant {

// bitsandbytes' FP4: a sign, two bits of exponent and one of mantissa, with 1/16 where IEEE 754 has a
// subnormal, over the largest, 12. Both signs of zero decode to 0; zeros and negative values that round to
// zero take code 0, positive ones code 8, as in its CPU backend.
inline constexpr Codebook4 kFp4Codebook = make_codebook4(
    {0.0f, 0.0625f / 12.0f, 8.0f / 12.0f, 1.0f, 4.0f / 12.0f, 6.0f / 12.0f, 2.0f / 12.0f, 3.0f / 12.0f,  //
     0.0f, -0.0625f / 12.0f, -8.0f / 12.0f, -1.0f, -4.0f / 12.0f, -6.0f / 12.0f, -2.0f / 12.0f,
     -3.0f / 12.0f},
    {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3});

Codec fp4_codec();

}  // namespace kumiko::quant
