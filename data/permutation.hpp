// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace kumiko::data {

// A keyed permutation of 0 ... size-1 in constant memory: a Feistel network over mix64 on the smallest even
// number of bits that holds size-1, walked along its cycle until the value is inside (Black and Rogaway
// 2002).
class Permutation {
 public:
  Permutation(std::uint64_t size, std::uint64_t key) noexcept;   // size in [1, 2^62]
  std::uint64_t operator()(std::uint64_t index) const noexcept;  // index < size

 private:
  std::uint64_t scramble(std::uint64_t value) const noexcept;

  std::uint64_t size_;
  std::uint64_t key_;
  unsigned half_bits_;
};

}  // namespace kumiko::data
