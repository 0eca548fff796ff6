// SPDX-License-Identifier: Apache-2.0
#include "quant/cpu/codebook4_simd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/cpu/codebook4_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "quant/cpu/blocks_simd.inc"

HWY_BEFORE_NAMESPACE();
namespace kumiko::quant::cpu {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR

bool is_vectorised() { return false; }
void encode(const Codebook4&, const void*, Element, std::int64_t, std::int64_t, std::int64_t,
            std::optional<std::uint64_t>, std::uint8_t*, float*) {
  HWY_ABORT("codebook4: called without SIMD");
}
void decode(const Codebook4&, const std::uint8_t*, const float*, std::int64_t, std::int64_t, void*, Element) {
  HWY_ABORT("codebook4: called without SIMD");
}

#else

bool is_vectorised() { return true; }

using Bytes = hn::CappedTag<std::uint8_t, kGroup>;
using Borders = std::array<float, 15>;

#if HWY_MAX_BYTES >= 32 && !HWY_HAVE_SCALABLE

// A search tree over the borders, level by level, from the largest: a step to the right is "at or below".
// Lanes of a level are looked up within a register, so that a rank takes 4 compares instead of 15.
struct SearchTree {
  hn::VFromD<F32> level0;
  hn::VFromD<F32> level1;
  hn::VFromD<F32> level2;
  hn::VFromD<F32> level3;
};

HWY_INLINE SearchTree search_tree(const Borders& t) {
  alignas(64) const float levels[3][16] = {
      {t[11], t[3]}, {t[13], t[9], t[5], t[1]}, {t[14], t[12], t[10], t[8], t[6], t[4], t[2], t[0]}};
  const F32 f32;
  return {.level0 = hn::Set(f32, t[7]),
          .level1 = hn::LoadU(f32, levels[0]),
          .level2 = hn::LoadU(f32, levels[1]),
          .level3 = hn::LoadU(f32, levels[2])};
}

// All bits set in the lanes where x is at or below the border.
template <class V>
HWY_INLINE auto at_or_below(V x, V border) {
  return hn::VecFromMask(I32(), hn::RebindMask(I32(), hn::Le(x, border)));
}

template <class V, class VI>
HWY_INLINE VI descend(V x, V level, VI path) {
  const auto border = hn::TableLookupLanes(level, hn::IndicesFromVec(F32(), path));
  return hn::Sub(hn::Add(path, path), at_or_below(x, border));
}

// Number of borders below x; 15 for NaN.
template <class V>
HWY_INLINE auto rank_in(const SearchTree& tree, V x) {
  auto path = hn::Neg(at_or_below(x, tree.level0));
  path = descend(x, tree.level1, path);
  path = descend(x, tree.level2, path);
  path = descend(x, tree.level3, path);
  return hn::Sub(hn::Set(I32(), 15), path);
}

#else

struct SearchTree {
  const Borders& borders;
};

HWY_INLINE SearchTree search_tree(const Borders& borders) { return {borders}; }

template <class V>
HWY_INLINE auto rank_in(const SearchTree& tree, V x) {
  const I32 i32;
  auto rank = hn::Set(i32, 15);
  for (const float border : tree.borders) {
    rank = hn::Add(rank, hn::VecFromMask(i32, hn::RebindMask(i32, hn::Le(x, hn::Set(F32(), border)))));
  }
  return rank;
}

#endif

template <class V>
HWY_INLINE auto look_up(const float (&table)[16], V rank) {
  const F32 f32;
#if HWY_MAX_BYTES == 64 && !HWY_HAVE_SCALABLE
  return hn::TableLookupLanes(hn::Load(f32, table), hn::IndicesFromVec(f32, rank));
#else
  return hn::GatherIndex(f32, table, rank);
#endif
}

struct Nearest {
  SearchTree thresholds;

  template <class V>
  HWY_INLINE auto rank(V x, std::int64_t) const {
    return rank_in(thresholds, x);
  }
};

struct Stochastic {
  SearchTree floors;
  std::uint64_t key;
  alignas(64) float levels[16];
  alignas(64) float steps[16];

  template <class V>
  HWY_INLINE auto rank(V x, std::int64_t index) const {
    const I32 i32;
    const auto lower = rank_in(floors, x);
    const auto reach = hn::Mul(random_units(key, index), look_up(steps, lower));
    const auto is_upper = hn::Lt(reach, hn::Sub(x, look_up(levels, lower)));
    return hn::Sub(lower, hn::VecFromMask(i32, hn::RebindMask(i32, is_upper)));
  }
};

HWY_INLINE Stochastic stochastic(const Codebook4& book, std::uint64_t seed) {
  Stochastic result{
      .floors = search_tree(book.floors), .key = stochastic_key(seed), .levels = {}, .steps = {}};
  for (std::size_t i = 0; i < 16; ++i) {
    result.levels[i] = book.levels[i];
    result.steps[i] = i < 15 ? book.levels[i + 1] - book.levels[i] : 0.0f;
  }
  return result;
}

// index: of the first element.
template <class T, class Rounding, class N>
HWY_INLINE void encode_group(const Codebook4& book, const Rounding& rounding, const N& normalise,
                             const T* from, std::int64_t index, std::uint8_t* codes) {
  const hn::Repartition<std::uint64_t, F32> u64;
  const hn::Repartition<std::uint8_t, F32> bytes;
  const hn::Rebind<std::uint8_t, decltype(u64)> u8;
  const auto order = hn::LoadDup128(bytes, book.order.data());
  for (std::int64_t i = 0; i < kGroup; i += static_cast<std::int64_t>(hn::Lanes(F32()))) {
    const auto rank = rounding.rank(normalise(load_fp32(from + i)), index + i);
    const auto code = hn::And(hn::BitCast(I32(), hn::TableLookupBytes(order, hn::BitCast(bytes, rank))),
                              hn::Set(I32(), 0xf));
    // The two codes of a byte lie in one 64-bit lane, the first in its lower half.
    const auto pair = hn::BitCast(u64, code);
    const auto byte = hn::Or(hn::ShiftLeft<4>(pair), hn::ShiftRight<32>(pair));
    hn::StoreU(hn::TruncateTo(u8, byte), u8, codes + i / 2);
  }
}

template <class T, class Rounding, class N>
HWY_INLINE void encode_block(const Codebook4& book, const Rounding& rounding, const N& normalise,
                             const T* from, std::int64_t count, std::int64_t index, std::uint8_t* codes) {
  std::int64_t i = 0;
  for (; i + kGroup <= count; i += kGroup)
    encode_group(book, rounding, normalise, from + i, index + i, codes + i / 2);
  if (i == count) return;
  T padded[kGroup] = {};
  std::uint8_t packed[kGroup / 2];
  std::memcpy(padded, from + i, static_cast<std::size_t>(count - i) * sizeof(T));
  encode_group(book, rounding, normalise, padded, index + i, packed);
  if (count % 2 != 0)
    packed[(count - i) / 2] = static_cast<std::uint8_t>((packed[(count - i) / 2] & 0xf0) | book.zero_code);
  std::memcpy(codes + i / 2, packed, static_cast<std::size_t>((count - i + 1) / 2));
}

template <class T, class Rounding>
void encode_all(const Codebook4& book, const Rounding& rounding, const T* dense, std::int64_t first,
                std::int64_t numel, std::int64_t block_size, std::uint8_t* codes, float* absmax) {
  for_each_block(dense, numel, block_size, absmax,
                 [&](std::int64_t begin, std::int64_t count, const auto& normalise) HWY_ATTR {
                   encode_block(book, rounding, normalise, dense + begin, count, first + begin,
                                codes + begin / 2);
                 });
}

template <class T>
void encode_rounded(const Codebook4& book, const T* dense, std::int64_t first, std::int64_t numel,
                    std::int64_t block_size, std::optional<std::uint64_t> seed, std::uint8_t* codes,
                    float* absmax) {
  if (seed) return encode_all(book, stochastic(book, *seed), dense, first, numel, block_size, codes, absmax);
  encode_all(book, Nearest{search_tree(book.thresholds)}, dense, first, numel, block_size, codes, absmax);
}

// The sixteen values that a block can decode to, as their bytes: `planes[k]` holds byte k of each. Decoding
// is then table lookups only, and rounding costs sixteen elements a block.
template <int kBytes>
struct Planes {
  alignas(64) std::uint8_t byte[kBytes][16];
};

template <class T>
HWY_INLINE void fill_planes(const Codebook4& book, const T* type, float scale, Planes<2>& planes) {
  const F32 f32;
  alignas(64) std::uint16_t values[16];
  for (std::size_t i = 0; i < 16; i += hn::Lanes(f32)) {
    const auto value = hn::Mul(hn::LoadU(f32, book.values.data() + i), hn::Set(f32, scale));
    hn::StoreU(hn::DemoteTo(U16Half(), hn::BitCast(I32(), round_to(type, value))), U16Half(), values + i);
  }
  const hn::FixedTag<std::uint8_t, 16> u8;
  auto low = hn::Zero(u8);
  auto high = hn::Zero(u8);
  hn::LoadInterleaved2(u8, reinterpret_cast<const std::uint8_t*>(values), low, high);
  hn::Store(low, u8, planes.byte[0]);
  hn::Store(high, u8, planes.byte[1]);
}

HWY_INLINE void fill_planes(const Codebook4& book, const float*, float scale, Planes<4>& planes) {
  const F32 f32;
  alignas(64) float values[16];
  for (std::size_t i = 0; i < 16; i += hn::Lanes(f32)) {
    hn::StoreU(hn::Mul(hn::LoadU(f32, book.values.data() + i), hn::Set(f32, scale)), f32, values + i);
  }
  const hn::FixedTag<std::uint8_t, 16> u8;
  auto b0 = hn::Zero(u8);
  auto b1 = hn::Zero(u8);
  auto b2 = hn::Zero(u8);
  auto b3 = hn::Zero(u8);
  hn::LoadInterleaved4(u8, reinterpret_cast<const std::uint8_t*>(values), b0, b1, b2, b3);
  hn::Store(b0, u8, planes.byte[0]);
  hn::Store(b1, u8, planes.byte[1]);
  hn::Store(b2, u8, planes.byte[2]);
  hn::Store(b3, u8, planes.byte[3]);
}

// Codes of Lanes(Bytes) elements in their order, one a byte.
HWY_INLINE auto load_codes(const std::uint8_t* codes) {
  const hn::Repartition<std::uint16_t, Bytes> u16;
  const auto wide = hn::PromoteTo(u16, hn::LoadU(hn::Rebind<std::uint8_t, decltype(u16)>(), codes));
  return hn::BitCast(Bytes(),
                     hn::Or(hn::ShiftRight<4>(wide), hn::And(hn::ShiftLeft<8>(wide), hn::Set(u16, 0x0f00))));
}

HWY_INLINE void decode_groups(const std::uint8_t* codes, const Planes<2>& planes, std::int64_t count,
                              std::uint8_t* out) {
  const Bytes u8;
  const auto low = hn::LoadDup128(u8, planes.byte[0]);
  const auto high = hn::LoadDup128(u8, planes.byte[1]);
  for (std::int64_t i = 0; i < count; i += static_cast<std::int64_t>(hn::Lanes(u8))) {
    const auto code = load_codes(codes + i / 2);
    hn::StoreInterleaved2(hn::TableLookupBytes(low, code), hn::TableLookupBytes(high, code), u8, out + 2 * i);
  }
}

HWY_INLINE void decode_groups(const std::uint8_t* codes, const Planes<4>& planes, std::int64_t count,
                              std::uint8_t* out) {
  const Bytes u8;
  const auto p0 = hn::LoadDup128(u8, planes.byte[0]);
  const auto p1 = hn::LoadDup128(u8, planes.byte[1]);
  const auto p2 = hn::LoadDup128(u8, planes.byte[2]);
  const auto p3 = hn::LoadDup128(u8, planes.byte[3]);
  for (std::int64_t i = 0; i < count; i += static_cast<std::int64_t>(hn::Lanes(u8))) {
    const auto code = load_codes(codes + i / 2);
    hn::StoreInterleaved4(hn::TableLookupBytes(p0, code), hn::TableLookupBytes(p1, code),
                          hn::TableLookupBytes(p2, code), hn::TableLookupBytes(p3, code), u8, out + 4 * i);
  }
}

template <class T>
void decode_all(const Codebook4& book, const std::uint8_t* codes, const float* absmax, std::int64_t numel,
                std::int64_t block_size, T* out) {
  constexpr std::int64_t kSize = sizeof(T);
  auto* bytes = reinterpret_cast<std::uint8_t*>(out);
  Planes<sizeof(T)> planes;
  for (std::int64_t begin = 0; begin < numel; begin += block_size, ++absmax) {
    const std::int64_t count = std::min(block_size, numel - begin);
    const std::int64_t whole = count / kGroup * kGroup;
    fill_planes(book, out, *absmax, planes);
    decode_groups(codes + begin / 2, planes, whole, bytes + begin * kSize);
    if (whole == count) continue;
    std::uint8_t packed[kGroup / 2] = {};
    std::uint8_t rest[kGroup * kSize];
    std::memcpy(packed, codes + (begin + whole) / 2, static_cast<std::size_t>((count - whole + 1) / 2));
    decode_groups(packed, planes, kGroup, rest);
    std::memcpy(bytes + (begin + whole) * kSize, rest, static_cast<std::size_t>((count - whole) * kSize));
  }
}

void encode(const Codebook4& book, const void* dense, Element type, std::int64_t first, std::int64_t numel,
            std::int64_t block_size, std::optional<std::uint64_t> seed, std::uint8_t* codes, float* absmax) {
  with_type(type, dense, [&](const auto* from) HWY_ATTR {
    encode_rounded(book, from, first, numel, block_size, seed, codes, absmax);
  });
}

void decode(const Codebook4& book, const std::uint8_t* codes, const float* absmax, std::int64_t numel,
            std::int64_t block_size, void* out, Element type) {
  with_type(type, out, [&](auto* to) HWY_ATTR { decode_all(book, codes, absmax, numel, block_size, to); });
}

#endif
}  // namespace HWY_NAMESPACE
}  // namespace kumiko::quant::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kumiko::quant::cpu {

HWY_EXPORT(is_vectorised);
HWY_EXPORT(encode);
HWY_EXPORT(decode);

bool has_simd() { return HWY_DYNAMIC_DISPATCH(is_vectorised)(); }

void codebook4_encode_blocks(const Codebook4& book, const void* dense, Element type, std::int64_t first,
                             std::int64_t numel, std::int64_t block_size, std::optional<std::uint64_t> seed,
                             std::uint8_t* codes, float* absmax) {
  HWY_DYNAMIC_DISPATCH(encode)(book, dense, type, first, numel, block_size, seed, codes, absmax);
}

void codebook4_decode_blocks(const Codebook4& book, const std::uint8_t* codes, const float* absmax,
                             std::int64_t numel, std::int64_t block_size, void* out, Element type) {
  HWY_DYNAMIC_DISPATCH(decode)(book, codes, absmax, numel, block_size, out, type);
}

}  // namespace kumiko::quant::cpu
#endif
