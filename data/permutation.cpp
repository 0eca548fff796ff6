// SPDX-License-Identifier: Apache-2.0
#include "data/permutation.hpp"

#include <bit>

#include "framework/core/rng.hpp"

namespace kumiko::data {

Permutation::Permutation(std::uint64_t size, std::uint64_t key) noexcept
    : size_(size), key_(key), half_bits_((static_cast<unsigned>(std::bit_width(size - 1)) + 1) / 2) {
  if (half_bits_ == 0) half_bits_ = 1;
}

std::uint64_t Permutation::scramble(std::uint64_t value) const noexcept {
  constexpr std::uint64_t kRounds = 6;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = value >> half_bits_;
  std::uint64_t right = value & mask;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    const std::uint64_t mixed = mix64(right ^ mix64(key_ + 0x9e3779b97f4a7c15ULL * (round + 1)));
    const std::uint64_t next = left ^ (mixed & mask);
    left = right;
    right = next;
  }
  return (left << half_bits_) | right;
}

std::uint64_t Permutation::operator()(std::uint64_t index) const noexcept {
  do index = scramble(index);
  while (index >= size_);
  return index;
}

}  // namespace kumiko::data
