// SPDX-License-Identifier: Apache-2.0
#include "quant/dynamic_search.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include <c10/util/Exception.h>

#include "quant/scale_codec.hpp"

namespace kumiko::quant {
namespace {

// Lower end of a bucket of magnitudes.
float bucket_start(std::int32_t bucket) {
  if (bucket == 0) return 0.0f;
  return std::bit_cast<float>((bucket + DynamicSearch::kFirst) << DynamicSearch::kShift);
}

DynamicSearch make_search(const std::array<float, 256>& map) {
  DynamicSearch search{.map = map, .borders = {}, .base = {}};
  const std::array<float, 255> thresholds = map_thresholds(map);
  std::copy(thresholds.begin(), thresholds.end(), search.borders.begin());
  search.borders.back() = std::numeric_limits<float>::infinity();
  constexpr std::int32_t kBuckets = DynamicSearch::kBuckets;
  const auto borders_below = [&](auto is_below) {
    return static_cast<std::int32_t>(std::count_if(thresholds.begin(), thresholds.end(), is_below));
  };
  for (std::int32_t bucket = 0; bucket < kBuckets; ++bucket) {
    const float start = bucket_start(bucket);
    const float end = bucket + 1 < kBuckets ? bucket_start(bucket + 1) : 2.0f;
    search.base[bucket] = borders_below([&](float border) { return border < start; });
    search.base[kBuckets + bucket] = borders_below([&](float border) { return border <= -end; });
    const std::int32_t above = borders_below([&](float border) { return border < end; });
    const std::int32_t below = borders_below([&](float border) { return border < -start; });
    TORCH_INTERNAL_ASSERT(above - search.base[bucket] <= 1 && below - search.base[kBuckets + bucket] <= 1,
                          "bucket ", bucket, " holds two borders");
  }
  return search;
}

}  // namespace

std::uint8_t nearest_code(const DynamicSearch& search, float x) {
  int code = 0;
  for (std::size_t i = 0; i < 255; ++i) code += !(x <= search.borders[i]);
  return static_cast<std::uint8_t>(code);
}

const DynamicSearch& dynamic_search(Int8Map map) {
  static const DynamicSearch with_sign = make_search(signed_dynamic_map());
  static const DynamicSearch without_sign = make_search(unsigned_dynamic_map());
  return map == Int8Map::with_sign ? with_sign : without_sign;
}

std::uint8_t zero_code(Int8Map map) { return nearest_code(dynamic_search(map), 0.0f); }

}  // namespace kumiko::quant
