// SPDX-License-Identifier: Apache-2.0
#include "framework/model/sgd.hpp"

#include <ATen/ATen.h>

#include "framework/core/config.hpp"

namespace kumiko {

SgdOptions SgdOptions::parse(const ConfigNode& node) {
  SgdOptions options;
  options.momentum = node.real("momentum", options.momentum, {0.0, 0.99999999});
  options.dampening = node.real("dampening", options.dampening, {0.0, 1.0});
  options.nesterov = node.boolean("nesterov", options.nesterov);
  if (options.nesterov && (options.momentum == 0.0 || options.dampening != 0.0)) {
    node.fail("nesterov", "is true, needs momentum above 0 and dampening 0");
  }
  return options;
}

Sgd::Sgd(const SgdOptions& options, const RuleSpec& spec) : MomentumRule(spec, options.momentum > 0.0), options_(options) {
  if (options.momentum > 0.0 && options.dampening > 0.0) started_ = at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(spec.device));
}

std::int64_t Sgd::nbytes_for(const SgdOptions& options, std::int64_t numel) {
  if (options.momentum == 0.0) return 0;
  return 4 * numel + (options.dampening > 0.0 ? 4 : 0);
}

void Sgd::apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) {
  value.mul_(1.0 - lr * weight_decay);
  if (!momentum_.defined()) {
    value.add_(gradient, -lr);
    return;
  }
  const bool first = started_.defined() && started_.item<float>() == 0.0F;
  momentum_.mul_(options_.momentum).add_(gradient, first ? 1.0 : 1.0 - options_.dampening);
  if (first) started_.fill_(1.0);
  if (options_.nesterov) {
    gradient.add_(momentum_, options_.momentum);
    value.add_(gradient, -lr);
  } else {
    value.add_(momentum_, -lr);
  }
}

void Sgd::forget() {
  MomentumRule::forget();
  if (started_.defined()) started_.zero_();
}

void Sgd::resize(at::IntArrayRef sizes) {
  MomentumRule::resize(sizes);
  if (started_.defined()) started_.zero_();
}

std::vector<at::Tensor> Sgd::state_tensors() {
  auto tensors = MomentumRule::state_tensors();
  if (started_.defined()) tensors.push_back(started_);
  return tensors;
}

void Sgd::save(StateWriter& out) const {
  MomentumRule::save(out);
  if (started_.defined()) out.tensor("started", started_);
}

void Sgd::load(const StateReader& in) {
  MomentumRule::load(in);
  if (started_.defined()) in.read_into("started", started_);
}

}  // namespace kumiko
