// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace kumiko::data {

// 128 bits of a text's SHA-256: equal texts, and only those in practice, have equal hashes.
struct TextHash {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend bool operator==(const TextHash&, const TextHash&) = default;
};

TextHash hash_text(std::string_view text);

// The hashes seen, in 16 bytes each at a load of at most 2/3.
class TextHashSet {
 public:
  TextHashSet() : slots_(1024) {}
  bool insert(TextHash hash);  // true when it is new
  std::int64_t size() const noexcept { return size_; }

 private:
  void grow();
  std::vector<TextHash> slots_;  // a power of two of them; all-zero marks a free one
  std::int64_t size_ = 0;
};

}  // namespace kumiko::data
