// SPDX-License-Identifier: Apache-2.0
#include "framework/model/embedding.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace kumiko {

at::Tensor embed(const at::Tensor& tokens, const Parameter& table, at::ScalarType dtype) {
  return table.value.index_select(0, tokens).to(dtype);
}

void embed_backward(const at::Tensor& dy, const at::Tensor& tokens, Parameter& table) {
  if (!table.grad.defined()) return;
  const at::Tensor dy32 = dy.to(at::kFloat).contiguous();
  if (!table.grad.is_cpu()) {
    table.grad.index_add_(0, tokens, dy32);
    return;
  }
  const std::int64_t width = dy32.size(1);
  const std::int64_t count = tokens.numel();
  const auto* ids = tokens.data_ptr<std::int64_t>();
  const auto* from = dy32.data_ptr<float>();
  auto* to = table.grad.data_ptr<float>();
  // Each thread owns a range of columns, so a row's sum is formed in the order of the tokens whatever the thread count.
  at::parallel_for(0, width, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = 0; i < count; ++i) {
      const float* source = from + i * width;
      float* row = to + ids[i] * width;
      for (std::int64_t j = begin; j < end; ++j) row[j] += source[j];
    }
  });
}

}  // namespace kumiko
