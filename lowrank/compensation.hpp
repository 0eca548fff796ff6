// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "lowrank/projector.hpp"
#include "quant/quantized_tensor.hpp"

namespace kumiko::lowrank {

struct Compensated {
  quant::QuantizedTensor weight;   // Q
  at::Tensor factor;               // B, fp32
  double relative_error = 0.0;     // |W - (deq(Q) + s lift(B))|_F / |W|_F
};

// Splits W [out, in] fp32 into Q and B by alternation (LoQT alg. 2 as its code has it; LoftQ): from What = W, each round
// Q = q(What), B = fit_factor(W - deq(Q)) / s, What = W - s lift(B); the round with the smallest error wins. With no rounds
// Q = q(W) and B = 0. With a seed q rounds stochastically.
Compensated compensate(const at::Tensor& weight, const Projector& projector, double scale, int iterations,
                       const quant::QuantFormat& format, std::optional<std::uint64_t> stochastic_seed = std::nullopt);

}  // namespace kumiko::lowrank
