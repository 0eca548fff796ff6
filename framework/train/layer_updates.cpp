// SPDX-License-Identifier: Apache-2.0
#include "framework/train/layer_updates.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

namespace kumiko {

LayerUpdates::LayerUpdates(Optimizer& optimizer, dist::Communicator& comm, dist::Wire wire, double learning_rate, bool owns_gradients)
    : optimizer_(optimizer), comm_(comm), wire_(wire), learning_rate_(learning_rate), owns_gradients_(owns_gradients) {}

void LayerUpdates::open(Parameter& parameter) {
  if (!owns_gradients_) return;
  const auto device = parameter.value.defined() ? parameter.value.device() : at::Device(at::kCPU);
  parameter.grad = at::zeros(parameter.grad_sizes(), at::TensorOptions().dtype(at::kFloat).device(device));
  held_bytes_ += static_cast<std::int64_t>(parameter.grad.nbytes());
  peak_bytes_ = std::max(peak_bytes_, held_bytes_);
}

void LayerUpdates::close(Parameter& parameter) {
  if (comm_.size() > 1) comm_.all_reduce(parameter.grad, dist::ReduceOp::sum, wire_)->wait();
  const double norm = at::norm(parameter.grad).item<double>();
  squared_norm_ += norm * norm;
  if (!std::isfinite(norm) && bad_.empty()) bad_ = parameter.name;
  if (bad_.empty()) optimizer_.update(parameter, learning_rate_);
  if (!owns_gradients_) return;
  held_bytes_ -= static_cast<std::int64_t>(parameter.grad.nbytes());
  parameter.grad.reset();
}

double LayerUpdates::norm() const { return std::sqrt(squared_norm_); }

}  // namespace kumiko
