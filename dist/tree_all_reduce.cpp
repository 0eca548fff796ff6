// SPDX-License-Identifier: Apache-2.0
#include "dist/tree_all_reduce.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"

namespace kumiko::dist {
namespace {

constexpr std::int64_t kChunkBytes = 4 << 20;  // bounds the receive buffer
constexpr std::int64_t kWholeBytes = 8 << 10;  // up to here latency counts more than bytes

template <ReduceOp op, class T>
T combine(T lower, T upper) {
  if constexpr (op == ReduceOp::sum) {
    return static_cast<T>(lower + upper);
  } else {
    return lower != lower || lower >= upper ? lower : upper;
  }
}

// The fixed inner trip count lets the compiler vectorise.
template <class Body>
void for_each_index(std::int64_t count, const Body& body) {
  constexpr std::int64_t kBlock = 64;
  std::int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    for (std::int64_t j = 0; j < kBlock; ++j) body(i + j);
  }
  for (; i < count; ++i) body(i);
}

// own = own op theirs, with the operands in the order of the ranks.
template <ReduceOp op, bool own_is_lower, class Acc, class Wired>
void combine_into(Acc* __restrict own, const Wired* __restrict theirs, std::int64_t count) {
  for_each_index(count, [=](std::int64_t i) {
    const Acc other = static_cast<Acc>(theirs[i]);
    own[i] = own_is_lower ? combine<op>(own[i], other) : combine<op>(other, own[i]);
  });
}

// To nearest even, every NaN to one quiet NaN, without a branch.
std::uint16_t bf16_bits(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

template <class To, class From>
To cast_to(From value) {
  if constexpr (std::is_same_v<To, at::BFloat16> && std::is_same_v<From, float>) {
    return at::BFloat16(bf16_bits(value), at::BFloat16::from_bits());
  } else {
    return static_cast<To>(value);
  }
}

template <class To, class From>
void cast_all(const From* __restrict from, To* __restrict to, std::int64_t count) {
  for_each_index(count, [=](std::int64_t i) { to[i] = cast_to<To>(from[i]); });
}

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  Range chunk(std::int64_t offset, std::int64_t length) const {
    return {std::min(begin + offset, end), std::min(begin + offset + length, end)};
  }
};

// Acc holds partial sums; Leaf is what the ranks' own values and the results are rounded to, and travel in.
template <class Acc, class Leaf, ReduceOp op>
class TreeReducer {
 public:
  TreeReducer(PointToPoint& channel, std::span<Acc> values) : channel_(channel), values_(values) {}

  void run() {
    const int rank = channel_.rank();
    const int core = static_cast<int>(std::bit_floor(static_cast<unsigned>(channel_.size())));
    const int surplus = channel_.size() - core;
    const Range all{0, static_cast<std::int64_t>(values_.size())};
    round_to_leaf(all);
    if (rank >= core) {
      reduce<Leaf>(rank - core, all, {}, false);
      gather(rank - core, {}, all);
      return;
    }
    if (rank < surplus) reduce<Leaf>(rank + core, {}, all, true);
    if (all.size() * static_cast<std::int64_t>(sizeof(Acc)) <= kWholeBytes) {
      exchange_whole(rank, core, surplus == 0, all);
    } else {
      halve_and_double(rank, core, surplus == 0, all);
    }
    if (rank < surplus) gather(rank + core, all, {});
  }

 private:
  void exchange_whole(int rank, int core, bool own_values_first, Range all) {
    for (int bit = 1; bit < core; bit <<= 1) reduce_at_level(rank, bit, own_values_first, all, all);
    round_to_leaf(all);
  }

  void halve_and_double(int rank, int core, bool own_values_first, Range all) {
    std::vector<Range> parents;
    Range mine = all;
    for (int bit = 1; bit < core; bit <<= 1) {
      const auto [kept, sent] = halves(mine, rank, bit);
      reduce_at_level(rank, bit, own_values_first, sent, kept);
      parents.push_back(mine);
      mine = kept;
    }
    round_to_leaf(mine);
    for (int bit = core >> 1; bit > 0; bit >>= 1) {
      const auto [kept, sent] = halves(parents.back(), rank, bit);
      gather(rank ^ bit, kept, sent);
      parents.pop_back();
    }
  }

  static std::pair<Range, Range> halves(Range range, int rank, int bit) {
    const std::int64_t middle = range.begin + range.size() / 2;
    const Range low{range.begin, middle};
    const Range high{middle, range.end};
    return (rank & bit) == 0 ? std::pair{low, high} : std::pair{high, low};
  }

  void reduce_at_level(int rank, int bit, bool own_values_first, Range out, Range in) {
    const bool own_is_lower = (rank & bit) == 0;
    if (bit == 1 && own_values_first) {
      reduce<Leaf>(rank ^ bit, out, in, own_is_lower);
    } else {
      reduce<Acc>(rank ^ bit, out, in, own_is_lower);
    }
  }

  template <class Wired>
  void reduce(int peer, Range out, Range in, bool own_is_lower) {
    for_chunks<Wired>(out, in, [&](Range out_chunk, Range in_chunk) {
      const std::span<Wired> received = buffer<Wired>(received_, in_chunk.size());
      channel_.exchange(peer, std::as_bytes(encode<Wired>(out_chunk)), peer,
                        std::as_writable_bytes(received));
      Acc* own = values_.data() + in_chunk.begin;
      if (own_is_lower) {
        combine_into<op, true>(own, received.data(), in_chunk.size());
      } else {
        combine_into<op, false>(own, received.data(), in_chunk.size());
      }
    });
  }

  void gather(int peer, Range out, Range in) {
    for_chunks<Leaf>(out, in, [&](Range out_chunk, Range in_chunk) {
      const std::span<Acc> place = values_.subspan(in_chunk.begin, in_chunk.size());
      const auto sent = std::as_bytes(encode<Leaf>(out_chunk));
      if constexpr (std::is_same_v<Acc, Leaf>) {
        channel_.exchange(peer, sent, peer, std::as_writable_bytes(place));
      } else {
        const std::span<Leaf> received = buffer<Leaf>(received_, in_chunk.size());
        channel_.exchange(peer, sent, peer, std::as_writable_bytes(received));
        cast_all(received.data(), place.data(), in_chunk.size());
      }
    });
  }

  template <class Wired, class Body>
  static void for_chunks(Range out, Range in, const Body& body) {
    constexpr std::int64_t kChunk = kChunkBytes / static_cast<std::int64_t>(sizeof(Wired));
    const std::int64_t longest = std::max(out.size(), in.size());
    for (std::int64_t offset = 0; offset < longest; offset += kChunk)
      body(out.chunk(offset, kChunk), in.chunk(offset, kChunk));
  }

  template <class Wired>
  std::span<const Wired> encode(Range range) {
    const std::span<const Acc> source = values_.subspan(range.begin, range.size());
    if constexpr (std::is_same_v<Acc, Wired>) {
      return source;
    } else {
      const std::span<Wired> target = buffer<Wired>(sent_, range.size());
      cast_all(source.data(), target.data(), range.size());
      return target;
    }
  }

  void round_to_leaf(Range range) {
    if constexpr (!std::is_same_v<Acc, Leaf>) {
      Acc* values = values_.data() + range.begin;
      for_each_index(range.size(),
                     [=](std::int64_t i) { values[i] = static_cast<Acc>(cast_to<Leaf>(values[i])); });
    }
  }

  struct Buffer {
    std::unique_ptr<std::byte[]> bytes;
    std::size_t capacity = 0;
  };

  template <class T>
  static std::span<T> buffer(Buffer& storage, std::int64_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    if (storage.capacity < bytes) storage = {std::make_unique_for_overwrite<std::byte[]>(bytes), bytes};
    return {reinterpret_cast<T*>(storage.bytes.get()), static_cast<std::size_t>(count)};
  }

  PointToPoint& channel_;
  std::span<Acc> values_;
  Buffer sent_;
  Buffer received_;
};

template <class Acc, class Leaf>
void reduce_values(PointToPoint& channel, std::span<Acc> values, ReduceOp op) {
  if (op == ReduceOp::sum) {
    TreeReducer<Acc, Leaf, ReduceOp::sum>(channel, values).run();
  } else {
    TreeReducer<Acc, Leaf, ReduceOp::max>(channel, values).run();
  }
}

template <class T>
std::span<T> elements(at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<T>(), static_cast<std::size_t>(tensor.numel())};
}

template <class T>
void reduce_in_place(PointToPoint& channel, at::Tensor& tensor, ReduceOp op) {
  reduce_values<T, T>(channel, elements<T>(tensor), op);
}

template <class T>
void reduce_in_fp32(PointToPoint& channel, at::Tensor& tensor, ReduceOp op) {
  const std::span<T> stored = elements<T>(tensor);
  const auto memory = std::make_unique_for_overwrite<float[]>(stored.size());
  const std::span<float> values{memory.get(), stored.size()};
  cast_all(stored.data(), values.data(), tensor.numel());
  reduce_values<float, T>(channel, values, op);
  cast_all(values.data(), stored.data(), tensor.numel());
}

}  // namespace

void tree_all_reduce(PointToPoint& channel, at::Tensor& tensor, ReduceOp op, Wire wire) {
  if (channel.size() == 1 || tensor.numel() == 0) return;
  switch (tensor.scalar_type()) {
    case at::kFloat:
      if (wire == Wire::bf16 && op == ReduceOp::sum) {
        return reduce_values<float, at::BFloat16>(channel, elements<float>(tensor), op);
      }
      return reduce_in_place<float>(channel, tensor, op);
    case at::kDouble:
      return reduce_in_place<double>(channel, tensor, op);
    case at::kLong:
      return reduce_in_place<std::int64_t>(channel, tensor, op);
    case at::kInt:
      return reduce_in_place<std::int32_t>(channel, tensor, op);
    case at::kByte:
      return reduce_in_place<std::uint8_t>(channel, tensor, op);
    case at::kBFloat16:
      return reduce_in_fp32<at::BFloat16>(channel, tensor, op);
    case at::kHalf:
      return reduce_in_fp32<at::Half>(channel, tensor, op);
    default:
      throw ShapeError(concat("all_reduce: found a tensor of ", tensor.scalar_type()));
  }
}

}  // namespace kumiko::dist
