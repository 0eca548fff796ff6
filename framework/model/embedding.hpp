// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "framework/model/parameter.hpp"

namespace kumiko {

// tokens [N] int64 -> [N, d] in `dtype`.
at::Tensor embed(const at::Tensor& tokens, const Parameter& table, at::ScalarType dtype);

// Adds dy's rows to the rows of table.grad that `tokens` name, in an order that does not depend on the number of threads.
void embed_backward(const at::Tensor& dy, const at::Tensor& tokens, Parameter& table);

}  // namespace kumiko
