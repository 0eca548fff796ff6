// SPDX-License-Identifier: Apache-2.0
#include "lowrank/loqt_linear.hpp"

#include <ATen/ATen.h>

#include "framework/core/error.hpp"

namespace kumiko::lowrank {

using quant::QuantizedTensor;

LoqtLinear::LoqtLinear(const LinearSpec& spec, const at::Tensor& initial, const LoqtLinearOptions& options)
    : ProbedLinear(spec, options.rank), options_(options),
      weight_(QuantizedTensor::quantize(initial.to(options.dense_dtype), options.weights)),
      factor_{spec.name + ".factor", ParamRole::factor,
              at::zeros(Projector::factor_sizes(side_, options.rank, spec.in_features, spec.out_features),
                        at::TensorOptions().dtype(options.factor_dtype).device(options.device)),
              {}} {
  factor_.output_dim = 1;   // B [r, out] and B [in, r] alike
}

bool LoqtLinear::folds(std::int64_t rows) const noexcept {
  return rows * (spec().in_features + spec().out_features) >= spec().in_features * spec().out_features;
}

at::Tensor LoqtLinear::dense_weight(at::ScalarType dtype) const {
  at::Tensor weight = weight_.dequantize(dtype);
  if (projector_) {
    if (weight_.format().codec == quant::CodecKind::none) weight = weight.clone();
    projector_->lift_into(weight, factor_.value, options_.scale);
  }
  return weight;
}

// Legend: x [N, in], P and B as in projector.hpp.
at::Tensor LoqtLinear::forward(const at::Tensor& x) const {
  const auto dtype = x.scalar_type();
  if (!projector_ || folds(x.size(0))) return at::mm(x, dense_weight(dtype).t());
  at::Tensor y = at::mm(x, weight_.dequantize(dtype).t());
  const at::Tensor p = projector_->basis(dtype);
  const at::Tensor b = factor_.value.to(dtype);
  if (side_ == Side::input) {
    y.addmm_(at::mm(x, p), b, 1, options_.scale);
  } else {
    y.addmm_(at::mm(x, b), p.t(), 1, options_.scale);
  }
  return y;
}

void LoqtLinear::backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) {
  const auto dtype = x.scalar_type();
  if (mode == BackwardMode::probe) {
    feed(x, dy);
  } else if (projector_ && factor_.grad.defined()) {
    // dL/dB = s (x P)^T dy, or s x^T (dy P): never dL/dW.
    const at::Tensor p = projector_->basis(dtype);
    const at::Tensor left = side_ == Side::input ? at::mm(x, p) : x;
    const at::Tensor right = side_ == Side::input ? dy : at::mm(dy, p);
    if (dtype == at::kFloat) {
      factor_.grad.addmm_(left.t(), right, 1, options_.scale);
    } else {
      factor_.grad.add_(at::mm(left.t(), right), options_.scale);
    }
  }
  if (dx != nullptr) add_input_grad(dx, dy, dense_weight(dtype));
}

at::Tensor LoqtLinear::effective_weight() const { return dense_weight(at::kFloat); }

double LoqtLinear::merge(Projector next) {
  const at::Tensor merged = dense_weight(at::kFloat);
  const bool quantized = options_.weights.codec != quant::CodecKind::none;
  if (quantized) {
    Compensated result = compensate(merged, next, options_.scale, options_.compensation_iterations, options_.weights);
    weight_ = std::move(result.weight);
    factor_.value.copy_(result.factor);
    projector_ = std::move(next);
    return result.relative_error;
  }
  weight_ = QuantizedTensor::quantize(merged.to(options_.dense_dtype), options_.weights);
  factor_.value.zero_();
  projector_ = std::move(next);
  return 0.0;
}

void LoqtLinear::prepare_to_receive() {
  weight_ = QuantizedTensor::empty({spec().out_features, spec().in_features}, options_.weights, options_.dense_dtype, options_.device);
  projector_.emplace(side_, QuantizedTensor::empty({basis_rows(), rank_}, options_.basis, at::kFloat, options_.device));
}

std::vector<at::Tensor> LoqtLinear::state_tensors() {
  std::vector<at::Tensor> tensors = weight_.storage();
  if (projector_) {
    const auto basis = projector_->stored().storage();
    tensors.insert(tensors.end(), basis.begin(), basis.end());
  }
  tensors.push_back(factor_.value);
  return tensors;
}

std::int64_t LoqtLinear::frozen_nbytes() const { return weight_.nbytes() + (projector_ ? projector_->stored().nbytes() : 0); }

void LoqtLinear::save(StateWriter& out) const {
  weight_.save(out, spec().name + ".weight");
  out.integer(spec().name + ".has_basis", projector_ ? 1 : 0);
  if (projector_) projector_->stored().save(out, spec().name + ".basis");
  out.tensor(factor_.name, factor_.value);
}

void LoqtLinear::load(const StateReader& in) {
  weight_ = QuantizedTensor::load(in, spec().name + ".weight", {spec().out_features, spec().in_features}, options_.weights,
                                  options_.dense_dtype, options_.device);
  projector_.reset();
  if (in.integer(spec().name + ".has_basis") != 0) {
    projector_.emplace(side_, QuantizedTensor::load(in, spec().name + ".basis", {basis_rows(), rank_}, options_.basis, at::kFloat,
                                                    options_.device));
  }
  in.read_into(factor_.name, factor_.value);
}

}  // namespace kumiko::lowrank
