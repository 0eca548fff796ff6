// SPDX-License-Identifier: Apache-2.0
#include "framework/model/rope.hpp"

#include <ATen/ATen.h>

namespace kumiko {

RopeTable make_rope_table(std::int64_t positions, std::int64_t head_dim, double base, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor exponent = at::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  const at::Tensor angle = at::outer(at::arange(positions, options), at::pow(base, exponent.neg()));
  return {angle.cos().to(device, at::kFloat), angle.sin().to(device, at::kFloat)};
}

at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table, std::int64_t first, bool inverse) {
  const std::int64_t half = x.size(3) / 2;
  const at::Tensor cos = table.cos.narrow(0, first, x.size(1)).unsqueeze(1);   // [T, 1, half]
  const at::Tensor sin = table.sin.narrow(0, first, x.size(1)).unsqueeze(1);
  const at::Tensor low = x.narrow(3, 0, half).to(at::kFloat);
  const at::Tensor high = x.narrow(3, half, half).to(at::kFloat);
  const double sign = inverse ? -1.0 : 1.0;
  at::Tensor out = at::empty(x.sizes(), x.options());
  out.narrow(3, 0, half).copy_((low * cos).addcmul_(high, sin, -sign));
  out.narrow(3, half, half).copy_((high * cos).addcmul_(low, sin, sign));
  return out;
}

}  // namespace kumiko
