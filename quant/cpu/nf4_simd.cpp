// SPDX-License-Identifier: Apache-2.0
#include "quant/cpu/nf4_simd.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "quant/nf4_code.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/cpu/nf4_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

static_assert(std::endian::native == std::endian::little, "codes are read in groups of bytes");

HWY_BEFORE_NAMESPACE();
namespace kumiko::quant::cpu {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR

bool is_vectorised() { return false; }
void encode(const void*, Element, std::int64_t, std::int64_t, std::uint8_t*, float*) {
  HWY_ABORT("nf4: called without SIMD");
}
void decode(const std::uint8_t*, const float*, std::int64_t, std::int64_t, void*, Element) {
  HWY_ABORT("nf4: called without SIMD");
}

#else
namespace hn = hwy::HWY_NAMESPACE;

bool is_vectorised() { return true; }

// Elements handled at a time: the smallest block. A short rest is copied into a group padded with zeros.
constexpr std::int64_t kGroup = 32;

using F32 = hn::ScalableTag<float>;
using I32 = hn::RebindToSigned<F32>;
using U32 = hn::RebindToUnsigned<F32>;
using U16Half = hn::Rebind<std::uint16_t, F32>;
using Bytes = hn::CappedTag<std::uint8_t, kGroup>;

struct Bf16 {
  std::uint16_t bits;
};
struct Fp16 {
  std::uint16_t bits;
};

HWY_INLINE auto load_fp32(const float* from) { return hn::LoadU(F32(), from); }

HWY_INLINE auto load_fp32(const Bf16* from) {
  const auto wide = hn::PromoteTo(U32(), hn::LoadU(U16Half(), &from->bits));
  return hn::BitCast(F32(), hn::ShiftLeft<16>(wide));
}

// Rebiases the exponent by 112, twice for infinities and NaN; a subnormal becomes a difference of two normal
// numbers, exact also where denormals are flushed.
HWY_INLINE auto load_fp32(const Fp16* from) {
  const F32 f32;
  const U32 u32;
  const auto half = hn::PromoteTo(u32, hn::LoadU(U16Half(), &from->bits));
  const auto sign = hn::ShiftLeft<16>(hn::And(half, hn::Set(u32, 0x8000u)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(half, hn::Set(u32, 0x7fffu)));
  const auto rebias = hn::Set(u32, 112u << 23);
  const auto is_special = hn::Gt(hn::BitCast(I32(), magnitude), hn::Set(I32(), (31 << 23) - 1));
  const auto normal =
      hn::Add(hn::Add(magnitude, rebias), hn::IfThenElseZero(hn::RebindMask(u32, is_special), rebias));
  const auto one_up = hn::Set(u32, 113u << 23);
  const auto subnormal = hn::Sub(hn::BitCast(f32, hn::Add(magnitude, one_up)), hn::BitCast(f32, one_up));
  const auto is_subnormal = hn::Lt(hn::BitCast(I32(), magnitude), hn::Set(I32(), 1 << 23));
  const auto bits = hn::IfThenElse(hn::RebindMask(u32, is_subnormal), hn::BitCast(u32, subnormal), normal);
  return hn::BitCast(f32, hn::Or(bits, sign));
}

// Largest magnitude by its bits: they order like the values, with infinity and then NaN above all.
template <class T>
HWY_INLINE float group_absmax(const T* from, std::int64_t count) {
  const I32 i32;
  const auto mask = hn::Set(i32, 0x7fffffff);
  auto largest = hn::Zero(i32);
  for (std::int64_t i = 0; i < count; i += static_cast<std::int64_t>(hn::Lanes(i32))) {
    largest = hn::Max(largest, hn::And(hn::BitCast(i32, load_fp32(from + i)), mask));
  }
  return std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(i32, largest)));
}

#if HWY_MAX_BYTES >= 32 && !HWY_HAVE_SCALABLE

// A search tree over the thresholds, level by level, from the largest: a step to the right is "at or below".
// Lanes of a level are looked up within a register, so that a code takes 4 compares instead of 15.
struct SearchTables {
  hn::VFromD<F32> level0;
  hn::VFromD<F32> level1;
  hn::VFromD<F32> level2;
  hn::VFromD<F32> level3;
};

HWY_INLINE SearchTables load_search_tables() {
  constexpr auto t = [](int i) { return kNf4Thresholds[static_cast<std::size_t>(i)]; };
  alignas(64) static constexpr float kLevels[3][16] = {
      {t(11), t(3)}, {t(13), t(9), t(5), t(1)}, {t(14), t(12), t(10), t(8), t(6), t(4), t(2), t(0)}};
  const F32 f32;
  return {.level0 = hn::Set(f32, t(7)),
          .level1 = hn::LoadU(f32, kLevels[0]),
          .level2 = hn::LoadU(f32, kLevels[1]),
          .level3 = hn::LoadU(f32, kLevels[2])};
}

// All bits set in the lanes where x is at or below the threshold.
template <class V>
HWY_INLINE auto at_or_below(V x, V threshold) {
  return hn::VecFromMask(I32(), hn::RebindMask(I32(), hn::Le(x, threshold)));
}

template <class V, class VI>
HWY_INLINE VI descend(V x, V level, VI path) {
  const auto threshold = hn::TableLookupLanes(level, hn::IndicesFromVec(F32(), path));
  return hn::Sub(hn::Add(path, path), at_or_below(x, threshold));
}

// 15 - number of thresholds at or above x; 15 for NaN.
template <class V>
HWY_INLINE auto nearest_codes(V x, const SearchTables& search) {
  auto path = hn::Neg(at_or_below(x, search.level0));
  path = descend(x, search.level1, path);
  path = descend(x, search.level2, path);
  path = descend(x, search.level3, path);
  return hn::Sub(hn::Set(I32(), 15), path);
}

#else

struct SearchTables {};

HWY_INLINE SearchTables load_search_tables() { return {}; }

template <class V>
HWY_INLINE auto nearest_codes(V x, const SearchTables&) {
  const I32 i32;
  auto code = hn::Set(i32, 15);
  for (const float threshold : kNf4Thresholds) {
    code = hn::Add(code, hn::VecFromMask(i32, hn::RebindMask(i32, hn::Le(x, hn::Set(F32(), threshold)))));
  }
  return code;
}

#endif

template <bool kDivide, class T>
HWY_INLINE void encode_group(const T* from, float factor, const SearchTables& search, std::uint8_t* codes) {
  const F32 f32;
  const hn::Repartition<std::uint64_t, F32> u64;
  const hn::Rebind<std::uint8_t, decltype(u64)> u8;
  const auto factors = hn::Set(f32, factor);
  for (std::int64_t i = 0; i < kGroup; i += static_cast<std::int64_t>(hn::Lanes(f32))) {
    auto x = load_fp32(from + i);
    if constexpr (kDivide) {
      x = hn::Div(x, factors);
    } else {
      x = hn::Mul(x, factors);
    }
    const auto code = nearest_codes(x, search);
    // The two codes of a byte lie in one 64-bit lane, the first in its lower half.
    const auto pair = hn::BitCast(u64, code);
    const auto byte = hn::Or(hn::ShiftLeft<4>(pair), hn::ShiftRight<32>(pair));
    hn::StoreU(hn::TruncateTo(u8, byte), u8, codes + i / 2);
  }
}

template <bool kDivide, class T>
HWY_INLINE void encode_range(const T* from, std::int64_t count, float factor, std::uint8_t* codes) {
  const SearchTables search = load_search_tables();
  std::int64_t i = 0;
  for (; i + kGroup <= count; i += kGroup) encode_group<kDivide>(from + i, factor, search, codes + i / 2);
  if (i == count) return;
  T padded[kGroup] = {};
  std::uint8_t packed[kGroup / 2];
  std::memcpy(padded, from + i, static_cast<std::size_t>(count - i) * sizeof(T));
  encode_group<kDivide>(padded, factor, search, packed);
  if (count % 2 != 0)
    packed[(count - i) / 2] = static_cast<std::uint8_t>((packed[(count - i) / 2] & 0xf0) | kNf4ZeroCode);
  std::memcpy(codes + i / 2, packed, static_cast<std::size_t>((count - i + 1) / 2));
}

template <class T>
HWY_INLINE float absmax_of(const T* from, std::int64_t count) {
  const std::int64_t whole = count / kGroup * kGroup;
  const float absmax = group_absmax(from, whole);
  if (whole == count) return absmax;
  T padded[kGroup] = {};
  std::memcpy(padded, from + whole, static_cast<std::size_t>(count - whole) * sizeof(T));
  const float rest = group_absmax(padded, kGroup);
  return std::bit_cast<float>(
      std::max(std::bit_cast<std::int32_t>(absmax), std::bit_cast<std::int32_t>(rest)));
}

template <class T>
void encode_all(const T* dense, std::int64_t numel, std::int64_t block_size, std::uint8_t* codes,
                float* absmax) {
  for (std::int64_t begin = 0; begin < numel; begin += block_size, ++absmax) {
    const std::int64_t count = std::min(block_size, numel - begin);
    const float found = absmax_of(dense + begin, count);
    const float divisor = found < kMinAbsmax ? kMinAbsmax : found;
    if (count == block_size) {
      *absmax = found;
      encode_range<false>(dense + begin, count, 1.0f / divisor, codes + begin / 2);
    } else {
      *absmax = divisor;
      encode_range<true>(dense + begin, count, divisor, codes + begin / 2);
    }
  }
}

// The sixteen values that a block can decode to, as their bytes: `planes[k]` holds byte k of each. Decoding
// is then table lookups only, and rounding costs sixteen elements a block.
template <int kBytes>
struct Planes {
  alignas(64) std::uint8_t byte[kBytes][16];
};

template <class V>
HWY_INLINE auto round_to(const Bf16*, V value) {
  const U32 u32;
  const auto bits = hn::BitCast(u32, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(u32, 0x7fff)), odd));
  return hn::IfThenElse(hn::RebindMask(u32, hn::IsNaN(value)), hn::Set(u32, 0x7fc0), rounded);
}

template <class V>
HWY_INLINE auto round_to(const Fp16*, V value) {
  const F32 f32;
  const I32 i32;
  const auto bits = hn::BitCast(i32, value);
  const auto sign = hn::And(hn::ShiftRight<16>(hn::BitCast(U32(), value)), hn::Set(U32(), 0x8000));
  const auto magnitude = hn::And(bits, hn::Set(i32, 0x7fffffff));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(i32, 1));
  const auto rebiased = hn::Add(magnitude, hn::Set(i32, 0xfff - (112 << 23)));
  const auto normal = hn::ShiftRight<13>(hn::Add(rebiased, odd));
  // Added to 0.5, whose ulp is fp16's smallest subnormal, the value is rounded by the adder.
  const auto half = hn::Set(f32, 0.5f);
  const auto subnormal =
      hn::Sub(hn::BitCast(i32, hn::Add(hn::BitCast(f32, magnitude), half)), hn::BitCast(i32, half));
  auto result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(i32, 113 << 23)), subnormal, normal);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(i32, (143 << 23) - 1)), hn::Set(i32, 0x7c00), result);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(i32, 0x7f800000)), hn::Set(i32, 0x7e00), result);
  return hn::Or(hn::BitCast(U32(), result), sign);
}

template <class T>
HWY_INLINE void fill_planes(const T* type, float scale, Planes<2>& planes) {
  const F32 f32;
  alignas(64) std::uint16_t values[16];
  for (std::size_t i = 0; i < 16; i += hn::Lanes(f32)) {
    const auto value = hn::Mul(hn::LoadU(f32, kNf4Code.data() + i), hn::Set(f32, scale));
    hn::StoreU(hn::DemoteTo(U16Half(), hn::BitCast(I32(), round_to(type, value))), U16Half(), values + i);
  }
  const hn::FixedTag<std::uint8_t, 16> u8;
  auto low = hn::Zero(u8);
  auto high = hn::Zero(u8);
  hn::LoadInterleaved2(u8, reinterpret_cast<const std::uint8_t*>(values), low, high);
  hn::Store(low, u8, planes.byte[0]);
  hn::Store(high, u8, planes.byte[1]);
}

HWY_INLINE void fill_planes(const float*, float scale, Planes<4>& planes) {
  const F32 f32;
  alignas(64) float values[16];
  for (std::size_t i = 0; i < 16; i += hn::Lanes(f32)) {
    hn::StoreU(hn::Mul(hn::LoadU(f32, kNf4Code.data() + i), hn::Set(f32, scale)), f32, values + i);
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
void decode_all(const std::uint8_t* codes, const float* absmax, std::int64_t numel, std::int64_t block_size,
                T* out) {
  constexpr std::int64_t kSize = sizeof(T);
  auto* bytes = reinterpret_cast<std::uint8_t*>(out);
  Planes<sizeof(T)> planes;
  for (std::int64_t begin = 0; begin < numel; begin += block_size, ++absmax) {
    const std::int64_t count = std::min(block_size, numel - begin);
    const std::int64_t whole = count / kGroup * kGroup;
    fill_planes(out, *absmax, planes);
    decode_groups(codes + begin / 2, planes, whole, bytes + begin * kSize);
    if (whole == count) continue;
    std::uint8_t packed[kGroup / 2] = {};
    std::uint8_t rest[kGroup * kSize];
    std::memcpy(packed, codes + (begin + whole) / 2, static_cast<std::size_t>((count - whole + 1) / 2));
    decode_groups(packed, planes, kGroup, rest);
    std::memcpy(bytes + (begin + whole) * kSize, rest, static_cast<std::size_t>((count - whole) * kSize));
  }
}

void encode(const void* dense, Element type, std::int64_t numel, std::int64_t block_size, std::uint8_t* codes,
            float* absmax) {
  switch (type) {
    case Element::fp32:
      return encode_all(static_cast<const float*>(dense), numel, block_size, codes, absmax);
    case Element::bf16:
      return encode_all(static_cast<const Bf16*>(dense), numel, block_size, codes, absmax);
    case Element::fp16:
      return encode_all(static_cast<const Fp16*>(dense), numel, block_size, codes, absmax);
  }
}

void decode(const std::uint8_t* codes, const float* absmax, std::int64_t numel, std::int64_t block_size,
            void* out, Element type) {
  switch (type) {
    case Element::fp32:
      return decode_all(codes, absmax, numel, block_size, static_cast<float*>(out));
    case Element::bf16:
      return decode_all(codes, absmax, numel, block_size, static_cast<Bf16*>(out));
    case Element::fp16:
      return decode_all(codes, absmax, numel, block_size, static_cast<Fp16*>(out));
  }
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

void encode_blocks(const void* dense, Element type, std::int64_t numel, std::int64_t block_size,
                   std::uint8_t* codes, float* absmax) {
  HWY_DYNAMIC_DISPATCH(encode)(dense, type, numel, block_size, codes, absmax);
}

void decode_blocks(const std::uint8_t* codes, const float* absmax, std::int64_t numel,
                   std::int64_t block_size, void* out, Element type) {
  HWY_DYNAMIC_DISPATCH(decode)(codes, absmax, numel, block_size, out, type);
}

}  // namespace kumiko::quant::cpu
#endif
