// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace kumiko {

// The sum of squares of a contiguous fp32 tensor, formed in double in one order for any number of threads.
double sum_of_squares(const at::Tensor& values);

// out = beta out + alpha a b for matrices of one dtype, out contiguous (beta 0: of any content). In fp32 on the CPU each sum is formed in the order of a's columns
// without fused operations: the same bits for any number of threads and on any processor, which the library's products do not promise.
void multiply_add(at::Tensor& out, const at::Tensor& a, const at::Tensor& b, double beta, double alpha);

}  // namespace kumiko
