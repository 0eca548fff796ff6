// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace kumiko::quant {

// NormalFloat4 (QLoRA, arXiv 2305.14314, appendix E): quantiles of N(0, 1) scaled to [-1, 1], with an exact
// zero.
inline constexpr std::array<float, 16> kNf4Code = {
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
};

// Borders between neighbouring codes, their fp32 midpoints; a value on a border takes the lower code.
// bitsandbytes' CPU backend takes the same; its CUDA kernels hold decimal constants, four of which (0, 8, 12,
// 14) round to a neighbour.
inline constexpr std::array<float, 15> kNf4Thresholds = [] {
  std::array<float, 15> thresholds{};
  for (std::size_t i = 0; i < thresholds.size(); ++i) thresholds[i] = (kNf4Code[i] + kNf4Code[i + 1]) / 2.0f;
  return thresholds;
}();

inline constexpr std::uint8_t kNf4ZeroCode = 7;

// Reciprocals and divisors are taken of max(absmax, kMinAbsmax), so that they stay finite.
inline constexpr float kMinAbsmax = 1e-38f;

}  // namespace kumiko::quant
