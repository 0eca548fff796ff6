// SPDX-License-Identifier: Apache-2.0
#include "lowrank/lora_linear.hpp"

#include <ATen/ATen.h>

namespace kumiko::lowrank {

using quant::QuantizedTensor;

LoraLinear::LoraLinear(const LinearSpec& spec, const at::Tensor& initial, const LoraLinearOptions& options, std::uint64_t seed)
    : Linear(spec), options_(options), weight_(QuantizedTensor::quantize(initial, options.weights, options.dense_dtype)),
      factors_(spec, options.rank, options.scale, options.factor_dtype, options.device) {
  factors_.draw_a(seed);
}

bool LoraLinear::folds(std::int64_t rows) const noexcept {
  return rows * (spec().in_features + spec().out_features) >= spec().in_features * spec().out_features;
}

at::Tensor LoraLinear::dense_weight(at::ScalarType dtype) const {
  at::Tensor weight = weight_.dequantize(dtype);
  if (options_.weights.codec == quant::CodecKind::none) weight = weight.clone();
  factors_.lift_into(weight);
  return weight;
}

at::Tensor LoraLinear::forward(const at::Tensor& x) const {
  const auto dtype = x.scalar_type();
  if (folds(x.size(0))) return at::mm(x, dense_weight(dtype).t());
  at::Tensor y = at::mm(x, weight_.dequantize(dtype).t());
  factors_.add_forward(x, y);
  return y;
}

void LoraLinear::backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) {
  const auto dtype = x.scalar_type();
  if (folds(x.size(0))) {
    if (dx != nullptr) add_input_grad(dx, dy, dense_weight(dtype));
    factors_.backward(x, dy, nullptr, mode);
    return;
  }
  if (dx != nullptr) add_input_grad(dx, dy, weight_.dequantize(dtype));
  factors_.backward(x, dy, dx, mode);
}

std::optional<FoldLoss> LoraLinear::fold(std::optional<std::uint64_t> rounding_seed) {
  const at::Tensor before = weight_.dequantize(at::kFloat);
  const at::Tensor update = factors_.product();
  const at::Tensor merged = before + update;
  weight_ = QuantizedTensor::quantize(merged, options_.weights, options_.dense_dtype, rounding_seed);
  if (options_.weights.codec == quant::CodecKind::none && options_.dense_dtype == at::kFloat) return std::nullopt;
  const at::Tensor stored = weight_.dequantize(at::kFloat);
  const auto number = [](const at::Tensor& value) { return value.item<double>(); };
  FoldLoss loss;
  loss.weight_error = number(at::norm(merged - stored)) / std::max(number(at::norm(merged)), 1e-30);
  const double energy = number(update.square().sum(at::kDouble));
  if (energy > 0.0) loss.retained_update = number((stored - before).mul_(update).sum(at::kDouble)) / energy;
  return loss;
}

void LoraLinear::draw_factors(std::uint64_t seed) {
  factors_.draw_a(seed);
  factors_.b().value.zero_();
}

void LoraLinear::prepare_to_receive() {
  weight_ = QuantizedTensor::empty({spec().out_features, spec().in_features}, options_.weights, options_.dense_dtype, options_.device);
}

void LoraLinear::save(StateWriter& out) const {
  weight_.save(out, spec().name + ".weight");
  factors_.save(out);
}

void LoraLinear::load(const StateReader& in) {
  weight_ = QuantizedTensor::load(in, spec().name + ".weight", {spec().out_features, spec().in_features}, options_.weights,
                                  options_.dense_dtype, options_.device);
  factors_.load(in);
}

}  // namespace kumiko::lowrank
