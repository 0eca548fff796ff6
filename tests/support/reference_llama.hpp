// SPDX-License-Identifier: Apache-2.0
// LLaMA from textbook operations under autograd: the oracle of the hand-written passes. Written after the papers' formulas,
// sharing no code with framework/model.
#pragma once

#include <cmath>
#include <map>
#include <string>

#include <ATen/ATen.h>

#include "framework/model/model_options.hpp"

namespace kumiko::test {

using Weights = std::map<std::string, at::Tensor>;   // by Hugging Face name

inline at::Tensor reference_norm(const at::Tensor& x, const at::Tensor& w, double eps) {
  return x / (x.pow(2).mean(-1, true) + eps).sqrt() * w;
}

inline at::Tensor reference_rotate(const at::Tensor& x, double base) {   // [B, H, T, D]
  const std::int64_t length = x.size(2);
  const std::int64_t dim = x.size(3);
  at::Tensor angle = at::zeros({length, dim}, x.options());
  for (std::int64_t t = 0; t < length; ++t) {
    for (std::int64_t j = 0; j < dim; ++j) {
      angle[t][j] = static_cast<double>(t) / std::pow(base, 2.0 * static_cast<double>(j % (dim / 2)) / static_cast<double>(dim));
    }
  }
  const at::Tensor rotated = at::cat({x.narrow(3, dim / 2, dim / 2).neg(), x.narrow(3, 0, dim / 2)}, 3);
  return x * angle.cos() + rotated * angle.sin();
}

// Logits [B, T, V]. allowed [B, T, T] bool: which keys a query sees; undefined for causal.
inline at::Tensor reference_logits(const ModelOptions& o, const Weights& w, const at::Tensor& tokens, const at::Tensor& allowed = {}) {
  const std::int64_t B = tokens.size(0), T = tokens.size(1), D = o.head_dim();
  at::Tensor x = at::embedding(w.at("model.embed_tokens.weight"), tokens);
  at::Tensor mask = allowed.defined() ? allowed.unsqueeze(1) : at::ones({T, T}, at::kBool).tril();
  for (std::int64_t l = 0; l < o.n_layers; ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    const auto product = [&](const at::Tensor& in, const std::string& name) { return at::matmul(in, w.at(p + name).t()); };
    const at::Tensor h = reference_norm(x, w.at(p + "input_layernorm.weight"), o.norm_eps);
    const auto heads = [&](const at::Tensor& in, std::int64_t n) { return in.view({B, T, n, D}).transpose(1, 2); };
    const at::Tensor q = reference_rotate(heads(product(h, "self_attn.q_proj"), o.n_heads), o.rope_theta);
    at::Tensor k = reference_rotate(heads(product(h, "self_attn.k_proj"), o.n_kv_heads), o.rope_theta);
    at::Tensor v = heads(product(h, "self_attn.v_proj"), o.n_kv_heads);
    k = k.repeat_interleave(o.n_heads / o.n_kv_heads, 1);
    v = v.repeat_interleave(o.n_heads / o.n_kv_heads, 1);
    at::Tensor scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(D));
    scores = scores.masked_fill(mask.logical_not(), -1e30);
    const at::Tensor a = at::matmul(scores.softmax(-1), v).transpose(1, 2).reshape({B, T, o.hidden_size});
    x = x + product(a, "self_attn.o_proj");
    const at::Tensor h2 = reference_norm(x, w.at(p + "post_attention_layernorm.weight"), o.norm_eps);
    const at::Tensor gate = product(h2, "mlp.gate_proj");
    x = x + product(gate * gate.sigmoid() * product(h2, "mlp.up_proj"), "mlp.down_proj");
  }
  x = reference_norm(x, w.at("model.norm.weight"), o.norm_eps);
  return at::matmul(x, w.at(o.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight").t());
}

// Sum of token losses over targets that are not -100.
inline at::Tensor reference_loss_sum(const ModelOptions& o, const Weights& w, const at::Tensor& tokens, const at::Tensor& targets,
                                     const at::Tensor& allowed = {}) {
  const at::Tensor logits = reference_logits(o, w, tokens, allowed);
  return at::cross_entropy_loss(logits.view({-1, logits.size(2)}), targets.reshape({-1}), {}, at::Reduction::Sum, -100);
}

}  // namespace kumiko::test
