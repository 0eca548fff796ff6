// SPDX-License-Identifier: Apache-2.0
#include "framework/model/momentum_rule.hpp"

#include <ATen/ATen.h>

namespace kumiko {

MomentumRule::MomentumRule(const RuleSpec& spec, bool keeps_momentum) : device_(spec.device), keeps_momentum_(keeps_momentum) {
  MomentumRule::resize(spec.sizes);
}

void MomentumRule::resize(at::IntArrayRef sizes) {
  if (keeps_momentum_) momentum_ = at::zeros(sizes, at::TensorOptions().dtype(at::kFloat).device(device_));
}

void MomentumRule::forget() {
  if (keeps_momentum_) momentum_.zero_();
}

void MomentumRule::transform(const MomentMap& map) {
  if (keeps_momentum_) momentum_ = map(momentum_, 1).contiguous();
}

std::vector<at::Tensor> MomentumRule::state_tensors() {
  if (!keeps_momentum_) return {};
  return {momentum_};
}

std::int64_t MomentumRule::state_nbytes() const { return keeps_momentum_ ? static_cast<std::int64_t>(momentum_.nbytes()) : 0; }

void MomentumRule::save(StateWriter& out) const {
  if (keeps_momentum_) out.tensor("momentum", momentum_);
}

void MomentumRule::load(const StateReader& in) {
  if (keeps_momentum_) in.read_into("momentum", momentum_);
}

}  // namespace kumiko
