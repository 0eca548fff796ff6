// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "quant/dynamic_search.hpp"
#include "quant/int8_state_kernels.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/cpu/int8_state_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "quant/cpu/blocks_simd.inc"

HWY_BEFORE_NAMESPACE();
namespace kumiko::quant::cpu {
namespace HWY_NAMESPACE {
// On x86 the instruction sets with a fused multiply-add are those from AVX2 on.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || (HWY_ARCH_X86 && HWY_TARGET > HWY_AVX2)

void encode_state(Int8Map map, const float* values, std::int64_t numel, StateBlocks out) {
  reference::state_encode(map, values, numel, out);
}
void decode_state(Int8Map map, StateBlocks state, std::int64_t numel, float* out) {
  reference::state_decode(map, state, numel, out);
}
void step_adam(const AdamFactors& factors, float* value, const float* grad, std::int64_t numel,
               StateBlocks first, StateBlocks second) {
  reference::adam8bit(factors, value, grad, numel, first, second);
}

#else

constexpr std::int64_t kBlock = Int8State::kBlock;
using U8 = hn::Rebind<std::uint8_t, F32>;
using Buffer = float[kBlock];

template <class V>
HWY_INLINE auto nearest_codes(const DynamicSearch& search, V x) {
  const F32 f32;
  const I32 i32;
  using S = DynamicSearch;
  const auto bits = hn::BitCast(i32, x);
  const auto magnitude = hn::ShiftRight<S::kShift>(hn::And(bits, hn::Set(i32, 0x7fffffff)));
  const auto clamped = hn::Min(hn::Max(magnitude, hn::Set(i32, S::kFirst)), hn::Set(i32, S::kLast));
  const auto half = hn::And(hn::BroadcastSignBit(bits), hn::Set(i32, S::kBuckets));
  const auto bucket = hn::Add(hn::Sub(clamped, hn::Set(i32, S::kFirst)), half);
  const auto base = hn::GatherIndex(i32, search.base.data(), bucket);
  const auto is_above = hn::Gt(x, hn::GatherIndex(f32, search.borders.data(), base));
  const auto code = hn::Sub(base, hn::VecFromMask(i32, hn::RebindMask(i32, is_above)));
  return hn::IfThenElse(hn::RebindMask(i32, hn::IsNaN(x)), hn::Set(i32, 255), code);
}

// A block whose codes have been padded to kBlock; `count` of them are stored.
HWY_INLINE void encode_padded(const DynamicSearch& search, const Buffer& values, std::int64_t count,
                              std::uint8_t* codes, float* absmax) {
  const F32 f32;
  const float found = group_absmax(values, kBlock);
  const float divisor = found < kMinAbsmax ? kMinAbsmax : found;
  const bool full = count == kBlock;
  *absmax = full ? found : divisor;
  const auto factor = hn::Set(f32, full ? 1.0f / divisor : divisor);
  std::uint8_t found_codes[kBlock];
  for (std::int64_t i = 0; i < kBlock; i += static_cast<std::int64_t>(hn::Lanes(f32))) {
    const auto value = hn::LoadU(f32, values + i);
    const auto x = full ? hn::Mul(value, factor) : hn::Div(value, factor);
    hn::StoreU(hn::DemoteTo(U8(), nearest_codes(search, x)), U8(), found_codes + i);
  }
  std::memcpy(codes, found_codes, static_cast<std::size_t>(count));
}

HWY_INLINE auto decode_lanes(const DynamicSearch& search, const std::uint8_t* codes, float absmax) {
  const auto code = hn::PromoteTo(I32(), hn::LoadU(U8(), codes));
  return hn::Mul(hn::GatherIndex(F32(), search.map.data(), code), hn::Set(F32(), absmax));
}

void encode_state(Int8Map map, const float* values, std::int64_t numel, StateBlocks out) {
  const DynamicSearch& search = dynamic_search(map);
  for (std::int64_t begin = 0; begin < numel; begin += kBlock, ++out.absmax) {
    const std::int64_t count = std::min(kBlock, numel - begin);
    Buffer padded = {};
    std::memcpy(padded, values + begin, static_cast<std::size_t>(count) * sizeof(float));
    encode_padded(search, padded, count, out.codes + begin, out.absmax);
  }
}

void decode_state(Int8Map map, StateBlocks state, std::int64_t numel, float* out) {
  const DynamicSearch& search = dynamic_search(map);
  for (std::int64_t begin = 0; begin < numel; begin += kBlock, ++state.absmax) {
    const std::int64_t count = std::min(kBlock, numel - begin);
    std::uint8_t codes[kBlock] = {};
    Buffer values;
    std::memcpy(codes, state.codes + begin, static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < kBlock; i += static_cast<std::int64_t>(hn::Lanes(F32())))
      hn::StoreU(decode_lanes(search, codes + i, *state.absmax), F32(), values + i);
    std::memcpy(out + begin, values, static_cast<std::size_t>(count) * sizeof(float));
  }
}

// The new moments of a block are left in m and v.
HWY_INLINE void update_block(const AdamFactors& f, float* value, const float* grad, const std::uint8_t* first,
                             float first_absmax, const std::uint8_t* second, float second_absmax, Buffer& m,
                             Buffer& v) {
  const F32 f32;
  const DynamicSearch& with_sign = dynamic_search(Int8Map::with_sign);
  const DynamicSearch& without_sign = dynamic_search(Int8Map::without_sign);
  for (std::int64_t i = 0; i < kBlock; i += static_cast<std::int64_t>(hn::Lanes(f32))) {
    const auto g = hn::LoadU(f32, grad + i);
    const auto old_m = hn::Mul(decode_lanes(with_sign, first + i, first_absmax), hn::Set(f32, f.beta1));
    const auto new_m = hn::MulAdd(hn::Set(f32, f.rest1), g, old_m);
    const auto old_v = hn::Mul(decode_lanes(without_sign, second + i, second_absmax), hn::Set(f32, f.beta2));
    const auto new_v = hn::MulAdd(hn::Mul(hn::Set(f32, f.rest2), g), g, old_v);
    const auto root = hn::Div(hn::Sqrt(new_v), hn::Set(f32, f.root_correction2));
    const auto change = hn::Div(hn::Mul(hn::Set(f32, f.rate), new_m), hn::Add(root, hn::Set(f32, f.eps)));
    const auto kept = hn::Mul(hn::LoadU(f32, value + i), hn::Set(f32, f.decay));
    hn::StoreU(hn::Add(kept, change), f32, value + i);
    hn::StoreU(new_m, f32, m + i);
    hn::StoreU(new_v, f32, v + i);
  }
}

// The padding holds zeros, which change no absmax.
HWY_INLINE void update_short_block(const AdamFactors& f, float* value, const float* grad, std::int64_t count,
                                   const std::uint8_t* first, float first_absmax, const std::uint8_t* second,
                                   float second_absmax, Buffer& m, Buffer& v) {
  const auto bytes = static_cast<std::size_t>(count) * sizeof(float);
  Buffer values = {};
  Buffer grads = {};
  std::array<std::uint8_t, kBlock> first_codes;
  std::array<std::uint8_t, kBlock> second_codes;
  first_codes.fill(zero_code(Int8Map::with_sign));
  second_codes.fill(zero_code(Int8Map::without_sign));
  std::memcpy(values, value, bytes);
  std::memcpy(grads, grad, bytes);
  std::memcpy(first_codes.data(), first, static_cast<std::size_t>(count));
  std::memcpy(second_codes.data(), second, static_cast<std::size_t>(count));
  update_block(f, values, grads, first_codes.data(), first_absmax, second_codes.data(), second_absmax, m, v);
  std::memcpy(value, values, bytes);
}

void step_adam(const AdamFactors& f, float* value, const float* grad, std::int64_t numel, StateBlocks first,
               StateBlocks second) {
  Buffer m;
  Buffer v;
  for (std::int64_t begin = 0; begin < numel; begin += kBlock, ++first.absmax, ++second.absmax) {
    const std::int64_t count = std::min(kBlock, numel - begin);
    if (count == kBlock) {
      update_block(f, value + begin, grad + begin, first.codes + begin, *first.absmax, second.codes + begin,
                   *second.absmax, m, v);
    } else {
      update_short_block(f, value + begin, grad + begin, count, first.codes + begin, *first.absmax,
                         second.codes + begin, *second.absmax, m, v);
    }
    encode_padded(dynamic_search(Int8Map::with_sign), m, count, first.codes + begin, first.absmax);
    encode_padded(dynamic_search(Int8Map::without_sign), v, count, second.codes + begin, second.absmax);
  }
}

#endif
}  // namespace HWY_NAMESPACE
}  // namespace kumiko::quant::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kumiko::quant::cpu {

HWY_EXPORT(encode_state);
HWY_EXPORT(decode_state);
HWY_EXPORT(step_adam);

void state_encode(Int8Map map, const float* values, std::int64_t numel, StateBlocks out) {
  HWY_DYNAMIC_DISPATCH(encode_state)(map, values, numel, out);
}

void state_decode(Int8Map map, StateBlocks state, std::int64_t numel, float* out) {
  HWY_DYNAMIC_DISPATCH(decode_state)(map, state, numel, out);
}

void adam8bit(const AdamFactors& factors, float* value, const float* grad, std::int64_t numel,
              StateBlocks first, StateBlocks second) {
  HWY_DYNAMIC_DISPATCH(step_adam)(factors, value, grad, numel, first, second);
}

}  // namespace kumiko::quant::cpu
#endif
