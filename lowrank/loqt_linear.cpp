// SPDX-License-Identifier: Apache-2.0
#include "lowrank/loqt_linear.hpp"

#include <algorithm>

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
    projector_->add_gradient(factor_.grad, x, dy, options_.scale);   // dL/dB; never dL/dW
  }
  if (dx != nullptr) add_input_grad(dx, dy, dense_weight(dtype));
}

at::Tensor LoqtLinear::effective_weight() const { return dense_weight(at::kFloat); }

LoqtLinear::Merge LoqtLinear::prepare_merge(Projector next, std::optional<std::uint64_t> stochastic_seed) const {
  const at::Tensor merged = dense_weight(at::kFloat);
  const auto prepared = [&]() -> Merge {
    if (options_.weights.codec == quant::CodecKind::none) {
      at::Tensor zero = at::zeros(next.factor_sizes(spec().in_features, spec().out_features), merged.options());
      return {QuantizedTensor::quantize(merged, options_.weights, options_.dense_dtype, stochastic_seed), std::move(zero), std::move(next), {}};
    }
    Compensated compensated = compensate(merged, next, options_.scale, options_.compensation_iterations, options_.weights, stochastic_seed);
    return {std::move(compensated.weight), std::move(compensated.factor), std::move(next), {}};
  };
  Merge merge = prepared();
  at::Tensor lost = merge.weight.dequantize(at::kFloat).sub(merged);
  merge.projector.lift_into(lost, merge.factor.to(options_.factor_dtype), options_.scale);
  merge.result.weight_error = at::norm(lost).item<double>() / std::max(at::norm(merged).item<double>(), 1e-30);
  if (!projector_) return merge;
  const at::Tensor update = projector_->lift(factor_.value.to(at::kFloat)).mul_(options_.scale);
  const double energy = update.square().sum(at::kDouble).item<double>();
  if (energy > 0.0) merge.result.retained_update = 1.0 + lost.mul(update).sum(at::kDouble).item<double>() / energy;
  return merge;
}

void LoqtLinear::resize(std::int64_t rank) {
  if (rank == rank_) return;
  rank_ = rank;
  factor_.value = at::zeros(Projector::factor_sizes(side_, rank, spec().in_features, spec().out_features), factor_.value.options());
}

void LoqtLinear::commit(Merge merge) {
  resize(merge.projector.rank());
  weight_ = std::move(merge.weight);
  factor_.value.copy_(merge.factor);
  projector_ = std::move(merge.projector);
}

void LoqtLinear::prepare_to_receive(std::int64_t rank) {
  resize(rank);
  weight_ = QuantizedTensor::empty({spec().out_features, spec().in_features}, options_.weights, options_.dense_dtype, options_.device);
  projector_.emplace(side_, QuantizedTensor::empty({basis_rows(), rank}, options_.basis, at::kFloat, options_.device));
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
  if (options_.adapts_rank) {
    const at::Tensor stored = in.tensor(factor_.name);
    const std::int64_t rank = stored.dim() == 2 ? stored.size(side_ == Side::input ? 0 : 1) : 0;
    KUMIKO_EXPECTS(rank >= 1 && rank <= std::min(spec().in_features, spec().out_features), CheckpointError, "'", factor_.name,
                   "' has sizes ", stored.sizes(), " that no rank of this layer gives; take an older checkpoint");
    resize(rank);
  }
  if (in.integer(spec().name + ".has_basis") != 0) {
    projector_.emplace(side_, QuantizedTensor::load(in, spec().name + ".basis", {basis_rows(), rank_}, options_.basis, at::kFloat,
                                                    options_.device));
  }
  in.read_into(factor_.name, factor_.value);
}

}  // namespace kumiko::lowrank
