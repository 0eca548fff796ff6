// SPDX-License-Identifier: Apache-2.0
#include "lowrank/quantized_linear.hpp"

#include <optional>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::lowrank {

using quant::QuantizedTensor;

QuantizedLinear::QuantizedLinear(const LinearSpec& spec, const at::Tensor& initial, const QuantizedLinearOptions& options)
    : Linear(spec), options_(options),
      weight_(QuantizedTensor::quantize(initial.to(options.device), options.weights, options.dense_dtype)) {
  parameter_.name = spec.name + ".weight";
  parameter_.role = ParamRole::matrix;
  parameter_.target = this;
  parameter_.projected = {spec.out_features, spec.in_features};
}

at::Tensor QuantizedLinear::forward(const at::Tensor& x) const { return at::mm(x, weight_.dequantize(x.scalar_type()).t()); }

void QuantizedLinear::backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) {
  if (dx != nullptr) add_input_grad(dx, dy, weight_.dequantize(x.scalar_type()));
  if (mode != BackwardMode::update || !parameter_.grad.defined()) return;
  add_grad(parameter_.grad, dy.t(), x);
}

void QuantizedLinear::apply_update(at::Tensor& update, double decay) {
  update.add_(weight_.dequantize(at::kFloat), 1.0 - decay);
  std::optional<std::uint64_t> seed;
  if (options_.rounding == Rounding::stochastic) seed = stream_seed(options_.seed, concat("rounding/", parameter_.name, "/", updates_));
  weight_ = QuantizedTensor::quantize(update, options_.weights, options_.dense_dtype, seed);
  ++updates_;
}

void QuantizedLinear::save(StateWriter& out) const {
  weight_.save(out, parameter_.name);
  out.integer(spec().name + ".updates", updates_);
}

void QuantizedLinear::load(const StateReader& in) {
  weight_ = QuantizedTensor::load(in, parameter_.name, {spec().out_features, spec().in_features}, options_.weights,
                                  options_.dense_dtype, options_.device);
  updates_ = in.integer(spec().name + ".updates");
}

}  // namespace kumiko::lowrank
