// SPDX-License-Identifier: Apache-2.0
// A 4-bit code: sixteen values between -1 and 1 that the elements of a block take, times the block's absmax.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace kumiko::quant {

struct Codebook4 {
  std::array<float, 16> values;        // of each code
  std::array<std::uint8_t, 16> order;  // codes by ascending value
  std::array<float, 16> levels;        // values, ascending
  // Borders between neighbouring levels, their fp32 midpoints: the number of those below x is the rank of the
  // nearest level. A value on a border takes the lower level.
  std::array<float, 15> thresholds;
  // Levels 1 to 14 and infinity: the number of those below x is the rank of the level below x, whose upper
  // neighbour is at or above x.
  std::array<float, 15> floors;
  std::uint8_t zero_code;  // of a zero, and in the padding nibble of an odd count
};

// lowest: rank of the lowest level that is ever encoded to, 0 or 1 (a code that no element takes is to have
// the lowest value).
constexpr Codebook4 make_codebook4(const std::array<float, 16>& values,
                                   const std::array<std::uint8_t, 16>& order, int lowest = 0) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Codebook4 book{.values = values, .order = order};
  for (std::size_t i = 0; i < 16; ++i) book.levels[i] = values[order[i]];
  std::size_t zero = 0;
  for (std::size_t i = 0; i < 15; ++i) {
    book.thresholds[i] = (book.levels[i] + book.levels[i + 1]) / 2.0f;
    book.floors[i] = i < 14 ? book.levels[i + 1] : kInfinity;
    if (static_cast<int>(i) < lowest) book.thresholds[i] = book.floors[i] = -kInfinity;
    if (book.thresholds[i] < 0.0f) zero = i + 1;
  }
  book.zero_code = order[zero];
  return book;
}

// Codes in the order of their values.
inline constexpr std::array<std::uint8_t, 16> kAscending = {0, 1, 2,  3,  4,  5,  6,  7,
                                                            8, 9, 10, 11, 12, 13, 14, 15};

}  // namespace kumiko::quant
