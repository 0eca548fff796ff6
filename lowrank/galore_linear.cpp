// SPDX-License-Identifier: Apache-2.0
#include "lowrank/galore_linear.hpp"

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::lowrank {

using quant::QuantizedTensor;

GaloreLinear::GaloreLinear(const LinearSpec& spec, const at::Tensor& initial,
                           const GaloreLinearOptions& options)
    : ProbedLinear(spec, options.rank),
      options_(options),
      weight_(QuantizedTensor::quantize(initial, options.storage.weights, options.dense_dtype)),
      parameter_{spec.name + ".weight",
                 ParamRole::matrix,
                 {},
                 {},
                 this,
                 Projector::factor_sizes(side_, options.rank, spec.in_features, spec.out_features),
                 /*output_dim=*/1} {}

// Legend: x [N, in], dy [N, out].
at::Tensor GaloreLinear::forward(const at::Tensor& x) const {
  return at::mm(x, weight_.dequantize(x.scalar_type()).t());
}

void GaloreLinear::backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) {
  if (mode == BackwardMode::probe) {
    feed(x, dy);
  } else if (projector_ && parameter_.grad.defined()) {
    projector_->add_gradient(parameter_.grad, x, dy, 1.0);
  }
  if (dx != nullptr) add_input_grad(dx, dy, weight_.dequantize(x.scalar_type()));
}

void GaloreLinear::apply_update(at::Tensor& update, double decay) {
  if (!projector_) return;
  const bool in_place =
      options_.storage.weights.codec == quant::CodecKind::none && options_.dense_dtype == at::kFloat;
  at::Tensor weight = in_place ? weight_.storage().front() : weight_.dequantize(at::kFloat);
  if (decay != 0.0) weight.mul_(1.0 - decay);
  projector_->lift_into(weight, update, options_.scale);
  ++updates_;
  if (in_place) return;
  std::optional<std::uint64_t> seed;
  if (options_.storage.rounding == Rounding::stochastic) {
    seed = stream_seed(options_.seed, concat("round/", spec().name, "/", updates_));
  }
  weight_ = QuantizedTensor::quantize(weight, options_.storage.weights, options_.dense_dtype, seed);
}

void GaloreLinear::prepare_to_receive() {
  projector_.emplace(side_, QuantizedTensor::empty({basis_rows(), rank_}, options_.storage.basis, at::kFloat,
                                                   weight_.device()));
}

std::vector<at::Tensor> GaloreLinear::state_tensors() const {
  std::vector<at::Tensor> tensors = weight_.storage();
  if (projector_) {
    const auto basis = projector_->stored().storage();
    tensors.insert(tensors.end(), basis.begin(), basis.end());
  }
  return tensors;
}

std::int64_t GaloreLinear::frozen_nbytes() const {
  return weight_.nbytes() + (projector_ ? projector_->stored().nbytes() : 0);
}

void GaloreLinear::save(StateWriter& out) const {
  weight_.save(out, spec().name + ".weight");
  out.integer(spec().name + ".updates", updates_);
  out.integer(spec().name + ".has_basis", projector_ ? 1 : 0);
  if (projector_) projector_->stored().save(out, spec().name + ".basis");
}

void GaloreLinear::load(const StateReader& in) {
  const at::Device device = weight_.device();
  weight_ = QuantizedTensor::load(in, spec().name + ".weight", {spec().out_features, spec().in_features},
                                  options_.storage.weights, options_.dense_dtype, device);
  updates_ = in.integer(spec().name + ".updates");
  projector_.reset();
  if (in.integer(spec().name + ".has_basis") != 0) {
    projector_.emplace(side_, QuantizedTensor::load(in, spec().name + ".basis", {basis_rows(), rank_},
                                                    options_.storage.basis, at::kFloat, device));
  }
}

}  // namespace kumiko::lowrank
