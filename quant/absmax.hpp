// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace kumiko::quant {

// Reciprocals and divisors are taken of max(absmax, kMinAbsmax), so that they stay finite.
inline constexpr float kMinAbsmax = 1e-38f;

}  // namespace kumiko::quant
