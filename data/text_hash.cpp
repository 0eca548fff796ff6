// SPDX-License-Identifier: Apache-2.0
#include "data/text_hash.hpp"

#include <cstring>
#include <utility>

#include "framework/core/sha256.hpp"

namespace kumiko::data {

TextHash hash_text(std::string_view text) {
  const auto digest = Sha256().update(text).digest();
  TextHash hash;
  std::memcpy(&hash.high, digest.data(), 8);
  std::memcpy(&hash.low, digest.data() + 8, 8);
  return hash;
}

bool TextHashSet::insert(TextHash hash) {
  if (hash == TextHash{}) hash.low = 1;
  if (3 * (static_cast<std::size_t>(size_) + 1) > 2 * slots_.size()) grow();
  std::size_t slot = hash.high & (slots_.size() - 1);
  while (slots_[slot] != TextHash{}) {
    if (slots_[slot] == hash) return false;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  slots_[slot] = hash;
  ++size_;
  return true;
}

void TextHashSet::grow() {
  const std::vector<TextHash> old = std::exchange(slots_, std::vector<TextHash>(2 * slots_.size()));
  size_ = 0;
  for (const TextHash& hash : old) {
    if (hash != TextHash{}) insert(hash);
  }
}

}  // namespace kumiko::data
