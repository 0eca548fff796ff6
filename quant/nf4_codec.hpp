// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quant/codebook4.hpp"
#include "quant/codec.hpp"

namespace kumiko::quant {

// NormalFloat4 (QLoRA, arXiv 2305.14314, appendix E): quantiles of N(0, 1) scaled to [-1, 1], with an exact
// zero. bitsandbytes' CPU backend takes the same thresholds; its CUDA kernels hold decimal constants, four of
// which (0, 8, 12, 14) round to a neighbour.
inline constexpr Codebook4 kNf4Codebook = make_codebook4(
    {
        -1.0f,
        -0.6961928009986877f,
        -0.5250730514526367f,
        -0.39491748809814453f,
        -0.28444138169288635f,
        -0.18477343022823334f,
        -0.09105003625154495f,
        0.0f,
        0.07958029955625534f,
        0.16093020141124725f,
        0.24611230194568634f,
        0.33791524171829224f,
        0.44070982933044434f,
        0.5626170039176941f,
        0.7229568362236023f,
        1.0f,
    },
    kAscending);

Codec nf4_codec();

}  // namespace kumiko::quant
