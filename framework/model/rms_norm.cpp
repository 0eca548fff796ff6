// SPDX-License-Identifier: Apache-2.0
#include "framework/model/rms_norm.hpp"

#include <ATen/ATen.h>

namespace kumiko {

RmsNormOutput rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor x32 = x.to(at::kFloat);
  const at::Tensor rstd = at::rsqrt(x32.square().mean(-1, /*keepdim=*/true).add_(eps));
  return {rms_norm_from(x, rstd, weight), rstd};
}

at::Tensor rms_norm_from(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight) {
  return (x.to(at::kFloat) * rstd).mul_(weight.to(at::kFloat)).to(x.scalar_type());
}

at::Tensor rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd, Parameter& weight, bool train) {
  const at::Tensor dy32 = dy.to(at::kFloat);
  const at::Tensor normalized = x.to(at::kFloat) * rstd;
  if (train && weight.grad.defined()) weight.grad.add_((dy32 * normalized).sum(0));
  const at::Tensor weighted = dy32 * weight.value.to(at::kFloat);
  const at::Tensor mean = (weighted * normalized).mean(-1, /*keepdim=*/true);
  return weighted.sub(normalized.mul(mean)).mul_(rstd).to(x.scalar_type());
}

}  // namespace kumiko
