// SPDX-License-Identifier: Apache-2.0
#include "lowrank/compensation.hpp"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>

namespace kumiko::lowrank {

Compensated compensate(const at::Tensor& weight, const Projector& projector, double scale, int iterations,
                       const quant::QuantFormat& format, std::optional<std::uint64_t> stochastic_seed) {
  const double norm = std::max(at::norm(weight).item<double>(), 1e-30);
  std::optional<Compensated> best;
  at::Tensor target = weight;
  for (int i = 0; i < std::max(iterations, 1); ++i) {
    auto quantized = quant::QuantizedTensor::quantize(target, format, std::nullopt, stochastic_seed);
    at::Tensor residual = weight - quantized.dequantize(at::kFloat);
    at::Tensor factor = at::zeros(projector.factor_sizes(weight.size(1), weight.size(0)), weight.options());
    if (iterations > 0) {
      factor = projector.fit_factor(residual).div_(scale);
      projector.lift_into(residual, factor, -scale);
    }
    const double error = at::norm(residual).item<double>() / norm;
    if (!best || error < best->relative_error) best = Compensated{std::move(quantized), factor, error};
    if (i + 1 < iterations) {
      target = weight.clone();
      projector.lift_into(target, factor, -scale);
    }
  }
  return std::move(*best);
}

}  // namespace kumiko::lowrank
