// SPDX-License-Identifier: Apache-2.0
#include "framework/model/swiglu.hpp"

#include <ATen/ATen.h>

namespace kumiko {

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) { return at::silu(gate).mul_(up); }

SwigluGrad swiglu_backward(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up) {
  return {at::silu_backward(dy * up, gate), at::silu(gate).mul_(dy)};
}

}  // namespace kumiko
