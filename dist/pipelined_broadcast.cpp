// SPDX-License-Identifier: Apache-2.0
#include "dist/pipelined_broadcast.hpp"

#include <algorithm>
#include <bit>

namespace kumiko::dist {
namespace {

constexpr std::size_t kTreeBytes = 64 << 10;
constexpr std::size_t kChunkBytes = 1 << 20;

// `place` is the rank counted from the root.
void broadcast_by_tree(PointToPoint& channel, std::span<std::byte> bytes, int root, int place) {
  const int size = channel.size();
  const auto rank_at = [&](int p) { return (p + root) % size; };
  const unsigned own = static_cast<unsigned>(place);
  const unsigned first_bit = place == 0 ? 1 : std::bit_floor(own) << 1;
  if (place != 0) {
    const int parent = rank_at(static_cast<int>(own - std::bit_floor(own)));
    channel.exchange(parent, {}, parent, bytes);
  }
  for (unsigned bit = first_bit; own + bit < static_cast<unsigned>(size); bit <<= 1) {
    const int child = rank_at(static_cast<int>(own + bit));
    channel.exchange(child, bytes, child, {});
  }
}

void broadcast_by_chain(PointToPoint& channel, std::span<std::byte> bytes, int root, int place) {
  const int size = channel.size();
  const int before = (place - 1 + root + size) % size;
  const int after = (place + 1 + root) % size;
  const auto chunk = [&](std::size_t offset) {
    return bytes.subspan(offset, std::min(kChunkBytes, bytes.size() - offset));
  };
  std::span<std::byte> held;  // received, to be passed on with the next receive
  for (std::size_t offset = 0; offset < bytes.size(); offset += kChunkBytes) {
    if (place == 0) {
      channel.exchange(after, chunk(offset), before, {});
    } else {
      channel.exchange(after, held, before, chunk(offset));
      if (place + 1 < size) held = chunk(offset);
    }
  }
  if (!held.empty()) channel.exchange(after, held, before, {});
}

}  // namespace

void pipelined_broadcast(PointToPoint& channel, std::span<std::byte> bytes, int root) {
  if (channel.size() == 1 || bytes.empty()) return;
  const int place = (channel.rank() - root + channel.size()) % channel.size();
  if (bytes.size() <= kTreeBytes) {
    broadcast_by_tree(channel, bytes, root, place);
  } else {
    broadcast_by_chain(channel, bytes, root, place);
  }
}

}  // namespace kumiko::dist
