// SPDX-License-Identifier: Apache-2.0
#include "quant/cpu/int8_simd.hpp"

#include "quant/int8_kernels.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/cpu/int8_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "quant/cpu/blocks_simd.inc"

HWY_BEFORE_NAMESPACE();
namespace kumiko::quant::cpu {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR

void encode_int8(const void*, Element, std::int64_t, std::int64_t, std::int64_t, std::optional<std::uint64_t>,
                 std::int8_t*, float*) {
  HWY_ABORT("int8: called without SIMD");
}
void decode_int8(const std::int8_t*, const float*, std::int64_t, std::int64_t, void*, Element) {
  HWY_ABORT("int8: called without SIMD");
}

#else

using I8 = hn::Rebind<std::int8_t, F32>;

struct Nearest {
  template <class V>
  HWY_INLINE auto round(V y, std::int64_t) const {
    return hn::Round(y);
  }
};

struct Stochastic {
  std::uint64_t key;

  template <class V>
  HWY_INLINE auto round(V y, std::int64_t index) const {
    const auto lower = hn::Floor(y);
    const auto is_upper = hn::Lt(random_units(key, index), hn::Sub(y, lower));
    return hn::IfThenElse(is_upper, hn::Add(lower, hn::Set(F32(), 1.0f)), lower);
  }
};

template <class T, class Rounding, class N>
HWY_INLINE void encode_group(const Rounding& rounding, const N& normalise, const T* from, std::int64_t index,
                             std::int8_t* codes) {
  const F32 f32;
  const auto levels = hn::Set(f32, kInt8Levels);
  for (std::int64_t i = 0; i < kGroup; i += static_cast<std::int64_t>(hn::Lanes(f32))) {
    auto y = rounding.round(hn::Mul(normalise(load_fp32(from + i)), levels), index + i);
    y = hn::IfThenElseZero(hn::Eq(y, y), y);
    y = hn::Min(hn::Max(y, hn::Neg(levels)), levels);
    hn::StoreU(hn::DemoteTo(I8(), hn::ConvertTo(I32(), y)), I8(), codes + i);
  }
}

template <class T, class Rounding, class N>
HWY_INLINE void encode_block(const Rounding& rounding, const N& normalise, const T* from, std::int64_t count,
                             std::int64_t index, std::int8_t* codes) {
  std::int64_t i = 0;
  for (; i + kGroup <= count; i += kGroup) encode_group(rounding, normalise, from + i, index + i, codes + i);
  if (i == count) return;
  T padded[kGroup] = {};
  std::int8_t rest[kGroup];
  std::memcpy(padded, from + i, static_cast<std::size_t>(count - i) * sizeof(T));
  encode_group(rounding, normalise, padded, index + i, rest);
  std::memcpy(codes + i, rest, static_cast<std::size_t>(count - i));
}

template <class T, class Rounding>
void encode_all(const Rounding& rounding, const T* dense, std::int64_t first, std::int64_t numel,
                std::int64_t block_size, std::int8_t* codes, float* absmax) {
  for_each_block(dense, numel, block_size, absmax,
                 [&](std::int64_t begin, std::int64_t count, const auto& normalise) HWY_ATTR {
                   encode_block(rounding, normalise, dense + begin, count, first + begin, codes + begin);
                 });
}

template <class V>
HWY_INLINE void store(V value, float* to) {
  hn::StoreU(value, F32(), to);
}

template <class V, class T>
HWY_INLINE void store(V value, T* to) {
  hn::StoreU(hn::DemoteTo(U16Half(), hn::BitCast(I32(), round_to(to, value))), U16Half(), &to->bits);
}

template <class T>
HWY_INLINE void decode_group(const std::int8_t* codes, float scale, T* to) {
  const F32 f32;
  const auto scales = hn::Set(f32, scale);
  for (std::int64_t i = 0; i < kGroup; i += static_cast<std::int64_t>(hn::Lanes(f32))) {
    const auto code = hn::ConvertTo(f32, hn::PromoteTo(I32(), hn::LoadU(I8(), codes + i)));
    store(hn::Mul(hn::Mul(code, hn::Set(f32, kInt8Step)), scales), to + i);
  }
}

template <class T>
void decode_all(const std::int8_t* codes, const float* absmax, std::int64_t numel, std::int64_t block_size,
                T* out) {
  for (std::int64_t begin = 0; begin < numel; begin += block_size, ++absmax) {
    const std::int64_t end = std::min(begin + block_size, numel);
    std::int64_t i = begin;
    for (; i + kGroup <= end; i += kGroup) decode_group(codes + i, *absmax, out + i);
    if (i == end) continue;
    std::int8_t padded[kGroup] = {};
    T rest[kGroup];
    std::memcpy(padded, codes + i, static_cast<std::size_t>(end - i));
    decode_group(padded, *absmax, rest);
    std::memcpy(out + i, rest, static_cast<std::size_t>(end - i) * sizeof(T));
  }
}

void encode_int8(const void* dense, Element type, std::int64_t first, std::int64_t numel,
                 std::int64_t block_size, std::optional<std::uint64_t> seed, std::int8_t* codes,
                 float* absmax) {
  with_type(type, dense, [&](const auto* from) HWY_ATTR {
    if (seed) {
      encode_all(Stochastic{stochastic_key(*seed)}, from, first, numel, block_size, codes, absmax);
    } else {
      encode_all(Nearest{}, from, first, numel, block_size, codes, absmax);
    }
  });
}

void decode_int8(const std::int8_t* codes, const float* absmax, std::int64_t numel, std::int64_t block_size,
                 void* out, Element type) {
  with_type(type, out, [&](auto* to) HWY_ATTR { decode_all(codes, absmax, numel, block_size, to); });
}

#endif
}  // namespace HWY_NAMESPACE
}  // namespace kumiko::quant::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kumiko::quant::cpu {

HWY_EXPORT(encode_int8);
HWY_EXPORT(decode_int8);

void int8_encode_blocks(const void* dense, Element type, std::int64_t first, std::int64_t numel,
                        std::int64_t block_size, std::optional<std::uint64_t> seed, std::int8_t* codes,
                        float* absmax) {
  HWY_DYNAMIC_DISPATCH(encode_int8)(dense, type, first, numel, block_size, seed, codes, absmax);
}

void int8_decode_blocks(const std::int8_t* codes, const float* absmax, std::int64_t numel,
                        std::int64_t block_size, void* out, Element type) {
  HWY_DYNAMIC_DISPATCH(decode_int8)(codes, absmax, numel, block_size, out, type);
}

}  // namespace kumiko::quant::cpu
#endif
