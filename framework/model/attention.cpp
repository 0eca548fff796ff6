// SPDX-License-Identifier: Apache-2.0
#include "framework/model/attention.hpp"

#include <limits>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

namespace kumiko {
namespace {

// [B, G, S, D] -> [B, H, S, D]: each key head serves H / G query heads.
at::Tensor expand_heads(const at::Tensor& x, std::int64_t heads) {
  if (x.size(1) == heads) return x;
  return x.unsqueeze(2).expand({x.size(0), x.size(1), heads / x.size(1), x.size(2), x.size(3)})
      .reshape({x.size(0), heads, x.size(2), x.size(3)});
}

at::Tensor reduce_heads(const at::Tensor& grad, std::int64_t groups) {
  if (grad.size(1) == groups) return grad;
  return grad.view({grad.size(0), groups, grad.size(1) / groups, grad.size(2), grad.size(3)}).sum(2);
}

std::optional<at::Tensor> optional_mask(const at::Tensor& mask) {
  return mask.defined() ? std::optional<at::Tensor>(mask) : std::nullopt;
}

at::Tensor generic_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask, bool causal) {
  return at::scaled_dot_product_attention(q, k, v, optional_mask(mask), 0.0, causal && !mask.defined());
}

}  // namespace

AttentionSaved attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask, bool causal) {
  const at::Tensor keys = expand_heads(k, q.size(1));
  const at::Tensor values = expand_heads(v, q.size(1));
  if (q.is_cpu()) {
    auto [out, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(q, keys, values, 0.0, causal && !mask.defined(),
                                                                            optional_mask(mask), std::nullopt);
    return {out, logsumexp};
  }
  return {generic_attention(q, keys, values, mask, causal), {}};
}

AttentionGrad attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& mask, const AttentionSaved& saved) {
  const at::Tensor keys = expand_heads(k, q.size(1));
  const at::Tensor values = expand_heads(v, q.size(1));
  const std::int64_t groups = k.size(1);
  if (q.is_cpu()) {
    auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        dout, q, keys, values, saved.out, saved.logsumexp, 0.0, !mask.defined(), optional_mask(mask), std::nullopt);
    return {dq, reduce_heads(dk, groups), reduce_heads(dv, groups)};
  }
  // Other devices choose among several kernels with different saved state; autograd knows which.
  const c10::AutoGradMode enable(true);
  at::Tensor leaf_q = q.detach().requires_grad_(true);
  at::Tensor leaf_k = keys.detach().requires_grad_(true);
  at::Tensor leaf_v = values.detach().requires_grad_(true);
  const at::Tensor out = generic_attention(leaf_q, leaf_k, leaf_v, mask, true);
  const auto grads = torch::autograd::grad({out}, {leaf_q, leaf_k, leaf_v}, {dout});
  return {grads[0], reduce_heads(grads[1], groups), reduce_heads(grads[2], groups)};
}

at::Tensor document_mask(const at::Tensor& tokens, std::int64_t eos, at::ScalarType dtype) {
  const std::int64_t length = tokens.size(1);
  const at::Tensor ends = tokens.eq(eos).to(at::kLong);
  const at::Tensor document = ends.cumsum(1) - ends;   // an EOS belongs to the document it ends
  const at::Tensor same = document.unsqueeze(2).eq(document.unsqueeze(1));
  const at::Tensor causal = at::ones({length, length}, tokens.options().dtype(at::kBool)).tril();
  at::Tensor mask = at::zeros({tokens.size(0), length, length}, tokens.options().dtype(dtype));
  mask.masked_fill_(same.logical_and(causal).logical_not(), -std::numeric_limits<double>::infinity());
  return mask.unsqueeze(1);
}

}  // namespace kumiko
