// SPDX-License-Identifier: Apache-2.0
// RMSNorm (Zhang and Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * w, statistics in fp32.
#pragma once

#include <ATen/core/Tensor.h>

#include "framework/model/parameter.hpp"

namespace kumiko {

struct RmsNormOutput {
  at::Tensor y;      // [N, d], dtype of x
  at::Tensor rstd;   // [N, 1], fp32
};

// x [N, d], weight [d] of any floating dtype.
RmsNormOutput rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// The same y from the saved statistics, for recomputation.
at::Tensor rms_norm_from(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight);

// Returns dL/dx [N, d] in the dtype of x; adds dL/dw to weight.grad where that is bound and `train` holds.
at::Tensor rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd, Parameter& weight, bool train);

}  // namespace kumiko
