// SPDX-License-Identifier: Apache-2.0
// Causal attention over LibTorch's scaled dot product kernels.
#pragma once

#include <ATen/core/Tensor.h>

namespace kumiko {

struct AttentionSaved {
  at::Tensor out;         // [B, H, T, D]
  at::Tensor logsumexp;   // CPU kernel only
};

// q [B, H, T, D], k and v [B, G, S, D] with H a multiple of G (grouped queries). `mask`: additive, [B, 1, T, S] in the dtype
// of q and already causal, or undefined for plain causal attention. Without `causal` every query sees all keys.
AttentionSaved attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask, bool causal);

struct AttentionGrad {
  at::Tensor q, k, v;
};
AttentionGrad attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& mask, const AttentionSaved& saved);

// Additive mask [B, 1, T, T] that lets a token see its own document only: documents end with `eos`. tokens [B, T].
at::Tensor document_mask(const at::Tensor& tokens, std::int64_t eos, at::ScalarType dtype);

}  // namespace kumiko
