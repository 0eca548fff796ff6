// SPDX-License-Identifier: Apache-2.0
// Nearest code of a dynamic 8-bit map (quant/scale_codec.hpp) without a search: the leading bits of a number
// leave one border to compare with.
#pragma once

#include <array>
#include <cstdint>

#include "quant/int8_state.hpp"

namespace kumiko::quant {

struct DynamicSearch {
  // Magnitudes fall into buckets by exponent and leading bits of the mantissa, from 2^-23 to 1; smaller ones
  // share the first, larger ones the last. Negative numbers use the buckets of the second half.
  static constexpr int kMantissaBits = 7;
  static constexpr int kShift = 23 - kMantissaBits;
  static constexpr std::int32_t kFirst = (127 - 23) << kMantissaBits;
  static constexpr std::int32_t kLast = 127 << kMantissaBits;
  static constexpr std::int32_t kBuckets = kLast - kFirst + 1;

  alignas(64) std::array<float, 256> map;
  alignas(64) std::array<float, 256> borders;               // thresholds of the map; the last is infinity
  alignas(64) std::array<std::int32_t, 2 * kBuckets> base;  // borders at or below all numbers of the bucket
};

// Number of borders below x, 255 for NaN: the plain definition.
std::uint8_t nearest_code(const DynamicSearch& search, float x);

const DynamicSearch& dynamic_search(Int8Map map);

// Code of 0.
std::uint8_t zero_code(Int8Map map);

}  // namespace kumiko::quant
