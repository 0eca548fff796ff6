// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding (Su et al. 2021) in the rotate-half layout of Hugging Face's LLaMA.
#pragma once

#include <ATen/core/Tensor.h>

namespace kumiko {

struct RopeTable {
  at::Tensor cos;   // [T, head_dim / 2], fp32
  at::Tensor sin;
};

RopeTable make_rope_table(std::int64_t positions, std::int64_t head_dim, double base, at::Device device);

// x [B, T, H, head_dim]; position of x[:, 0] is `first`. Returns a new tensor of the same dtype. `inverse` rotates back,
// which is also the backward pass.
at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table, std::int64_t first, bool inverse);

}  // namespace kumiko
