// SPDX-License-Identifier: Apache-2.0
// SwiGLU (Shazeer 2020): silu(gate) * up.
#pragma once

#include <ATen/core/Tensor.h>

namespace kumiko {

// gate, up [N, m] -> [N, m].
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

struct SwigluGrad {
  at::Tensor gate;
  at::Tensor up;
};
SwigluGrad swiglu_backward(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up);

}  // namespace kumiko
