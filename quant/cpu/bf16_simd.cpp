// SPDX-License-Identifier: Apache-2.0
#include "quant/cpu/bf16_simd.hpp"

#include "quant/stochastic.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/cpu/bf16_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "quant/cpu/blocks_simd.inc"

HWY_BEFORE_NAMESPACE();
namespace kumiko::quant::cpu {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR

void round_bf16(const float* from, std::int64_t first, std::int64_t numel, std::uint64_t key,
                std::uint16_t* to) {
  for (std::int64_t i = 0; i < numel; ++i)
    to[i] = stochastic_bf16_bits(from[i], stochastic_bits(key, first + i));
}

#else

void round_bf16(const float* from, std::int64_t first, std::int64_t numel, std::uint64_t key,
                std::uint16_t* to) {
  const I32 i32;
  const U32 u32;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(u32));
  std::int64_t i = 0;
  for (; i + lanes <= numel; i += lanes) {
    const auto value = hn::LoadU(F32(), from + i);
    const auto bits = hn::BitCast(u32, value);
    const auto random = hn::ShiftRight<16>(random_bits(key, first + i));
    const auto moved = hn::ShiftRight<16>(hn::Add(bits, random));
    const auto magnitude = hn::And(hn::BitCast(i32, value), hn::Set(i32, 0x7fffffff));
    const auto is_finite = hn::RebindMask(u32, hn::Lt(magnitude, hn::Set(i32, 0x7f800000)));
    const auto result = hn::IfThenElse(is_finite, moved, round_to(static_cast<const Bf16*>(nullptr), value));
    hn::StoreU(hn::DemoteTo(U16Half(), hn::BitCast(i32, result)), U16Half(), to + i);
  }
  for (; i < numel; ++i) to[i] = stochastic_bf16_bits(from[i], stochastic_bits(key, first + i));
}

#endif
}  // namespace HWY_NAMESPACE
}  // namespace kumiko::quant::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kumiko::quant::cpu {

HWY_EXPORT(round_bf16);

void stochastic_bf16(const float* from, std::int64_t first, std::int64_t numel, std::uint64_t seed,
                     std::uint16_t* to) {
  HWY_DYNAMIC_DISPATCH(round_bf16)(from, first, numel, stochastic_key(seed), to);
}

}  // namespace kumiko::quant::cpu
#endif
