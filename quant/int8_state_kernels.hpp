// SPDX-License-Identifier: Apache-2.0
// Kernels of Int8State on plain memory, one thread; a range begins at a block, its last block may be short.
// Values over absmax take the code that nearest_code of quant/dynamic_search.hpp finds: a full block
// multiplies by the reciprocal of max(absmax, 1e-38), a short last block divides by it and keeps it.
#pragma once

#include <cstdint>

#include "quant/int8_state.hpp"

namespace kumiko::quant {

struct StateBlocks {
  std::uint8_t* codes;
  float* absmax;
};

struct AdamFactors {
  float beta1;
  float rest1;  // 1 - beta1
  float beta2;
  float rest2;
  float root_correction2;  // sqrt(1 - beta2^step)
  float eps;
  float decay;  // 1 - lr weight_decay
  float rate;   // -lr / (1 - beta1^step)
};

#define KUMIKO_DECLARE_INT8_STATE_KERNELS                                                        \
  void state_encode(Int8Map map, const float* values, std::int64_t numel, StateBlocks out);      \
  void state_decode(Int8Map map, StateBlocks state, std::int64_t numel, float* out);             \
  void adam8bit(const AdamFactors& factors, float* value, const float* grad, std::int64_t numel, \
                StateBlocks first, StateBlocks second)

namespace reference {
KUMIKO_DECLARE_INT8_STATE_KERNELS;
}
namespace cpu {
// Vectorised where the machine has an instruction set with a fused multiply-add, else those of the reference.
KUMIKO_DECLARE_INT8_STATE_KERNELS;
}  // namespace cpu
}  // namespace kumiko::quant
