// SPDX-License-Identifier: Apache-2.0
#include "data/utf8.hpp"

#include <cstdint>
#include <cstring>

namespace kumiko::data {
namespace {

// Length of the well-formed sequence that starts at `bytes`, 0 when there is none.
std::size_t sequence_length(const unsigned char* bytes, std::size_t left) noexcept {
  const auto within = [&](std::size_t index, unsigned low, unsigned high) {
    return index < left && bytes[index] >= low && bytes[index] <= high;
  };
  const unsigned lead = bytes[0];
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  if (lead < 0xE0) return within(1, 0x80, 0xBF) ? 2 : 0;
  if (lead < 0xF0) {
    return within(1, lead == 0xE0 ? 0xA0 : 0x80, lead == 0xED ? 0x9F : 0xBF) && within(2, 0x80, 0xBF) ? 3 : 0;
  }
  return within(1, lead == 0xF0 ? 0x90 : 0x80, lead == 0xF4 ? 0x8F : 0xBF) && within(2, 0x80, 0xBF) &&
                 within(3, 0x80, 0xBF)
             ? 4
             : 0;
}

}  // namespace

std::optional<std::size_t> find_invalid_utf8(std::string_view text) noexcept {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    std::uint64_t eight = 0;
    if (text.size() - i >= sizeof(eight)) {
      std::memcpy(&eight, bytes + i, sizeof(eight));
      if ((eight & 0x8080808080808080ULL) == 0) {
        i += sizeof(eight);
        continue;
      }
    }
    const std::size_t length = sequence_length(bytes + i, text.size() - i);
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

}  // namespace kumiko::data
