// SPDX-License-Identifier: Apache-2.0
#include "framework/model/parameter.hpp"

#include <ATen/ATen.h>

namespace kumiko {
namespace {

// Views begin at multiples of 64 bytes, as separately allocated tensors would.
constexpr std::int64_t kAlignment = 16;

std::int64_t padded(std::int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

GradBuffer::GradBuffer(const std::vector<Parameter*>& parameters, at::Device device) : parameters_(parameters) {
  std::int64_t total = 0;
  for (const Parameter* p : parameters_) total += padded(p->grad_numel());
  flat_ = at::zeros({total}, at::TensorOptions().dtype(at::kFloat).device(device));
  std::int64_t offset = 0;
  for (Parameter* p : parameters_) {
    p->grad = flat_.narrow(0, offset, p->grad_numel()).view(p->grad_sizes());
    offset += padded(p->grad_numel());
  }
}

void GradBuffer::zero() { flat_.zero_(); }

double GradBuffer::norm() const { return at::norm(flat_).item<double>(); }

std::string GradBuffer::first_non_finite() const {
  for (const Parameter* p : parameters_) {
    if (!at::isfinite(p->grad).all().item<bool>()) return p->name;
  }
  return "";
}

std::int64_t GradBuffer::nbytes() const { return flat_.numel() * 4; }

}  // namespace kumiko
