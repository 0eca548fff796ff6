// SPDX-License-Identifier: Apache-2.0
#include "framework/model/llama_block.hpp"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/model/rms_norm.hpp"
#include "framework/model/swiglu.hpp"

namespace kumiko {
namespace {

Parameter make_norm(const std::string& name, std::int64_t width, at::ScalarType dtype, at::Device device) {
  return {name, ParamRole::norm, at::ones({width}, at::TensorOptions().dtype(dtype).device(device)), {}};
}

// [N, H D] -> [B, T, H, D]
at::Tensor split_heads(const at::Tensor& x, const BlockContext& context, std::int64_t head_dim) {
  return x.view({context.batch, context.length, x.size(1) / head_dim, head_dim});
}

// [B, H, T, D] -> [N, H D]
at::Tensor join_heads(const at::Tensor& x) { return x.transpose(1, 2).reshape({x.size(0) * x.size(2), x.size(1) * x.size(3)}); }

void linear_backward(Linear& linear, const at::Tensor& x, const at::Tensor& dy, at::Tensor& dx, const BlockContext& context,
                     BackwardMode mode) {
  const auto parameters = linear.parameters();
  for (Parameter* p : parameters) context.grads.open(*p);
  linear.backward(x, dy, &dx, mode);
  for (Parameter* p : parameters) context.grads.close(*p);
}

at::Tensor norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd, Parameter& weight, const BlockContext& context,
                         BackwardMode mode) {
  context.grads.open(weight);
  at::Tensor dx = rms_norm_backward(dy, x, rstd, weight, mode == BackwardMode::update);
  context.grads.close(weight);
  return dx;
}

}  // namespace

LlamaBlock::LlamaBlock(const ModelOptions& options, std::int64_t index, std::vector<std::unique_ptr<Linear>> linears,
                       at::ScalarType dtype, at::Device device)
    : heads_(options.n_heads), groups_(options.n_kv_heads), head_dim_(options.head_dim()), norm_eps_(options.norm_eps),
      norm1_(make_norm(concat("model.layers.", index, ".input_layernorm.weight"), options.hidden_size, dtype, device)),
      norm2_(make_norm(concat("model.layers.", index, ".post_attention_layernorm.weight"), options.hidden_size, dtype, device)),
      linears_(std::move(linears)) {}

LlamaBlock::Qkv LlamaBlock::project_qkv(const at::Tensor& h1, const BlockContext& context) const {
  Qkv result;
  result.q = apply_rope(split_heads(linear(q_proj).forward(h1), context, head_dim_), *context.rope, context.first_position, false).transpose(1, 2);
  result.k = apply_rope(split_heads(linear(k_proj).forward(h1), context, head_dim_), *context.rope, context.first_position, false).transpose(1, 2);
  result.v = split_heads(linear(v_proj).forward(h1), context, head_dim_).transpose(1, 2);
  return result;
}

at::Tensor LlamaBlock::attention_half(const at::Tensor& x, const BlockContext& context, BlockSaved* saved) const {
  RmsNormOutput norm = rms_norm(x, norm1_.value, norm_eps_);
  Qkv qkv = project_qkv(norm.y, context);
  AttentionSaved attended = attention(qkv.q, qkv.k, qkv.v, context.mask, true);
  at::Tensor x2 = x + linear(o_proj).forward(join_heads(attended.out));
  if (saved != nullptr) {
    saved->h1 = norm.y;
    saved->rstd1 = norm.rstd;
    saved->q = qkv.q;
    saved->k = qkv.k;
    saved->v = qkv.v;
    saved->attention = attended;
  }
  return x2;
}

at::Tensor LlamaBlock::mlp_half(const at::Tensor& x2, BlockSaved* saved) const {
  RmsNormOutput norm = rms_norm(x2, norm2_.value, norm_eps_);
  at::Tensor gate = linear(gate_proj).forward(norm.y);
  at::Tensor up = linear(up_proj).forward(norm.y);
  at::Tensor m = swiglu(gate, up);
  at::Tensor y = x2 + linear(down_proj).forward(m);
  if (saved != nullptr) {
    saved->h2 = norm.y;
    saved->rstd2 = norm.rstd;
    saved->gate = gate;
    saved->up = up;
    saved->m = m;
  }
  return y;
}

at::Tensor LlamaBlock::forward(const at::Tensor& x, const BlockContext& context, Recompute recompute, BlockSaved* saved) const {
  const bool keep_attention = saved != nullptr && recompute != Recompute::attention && recompute != Recompute::block;
  const bool keep_mlp = saved != nullptr && recompute != Recompute::mlp && recompute != Recompute::block;
  const at::Tensor x2 = attention_half(x, context, keep_attention ? saved : nullptr);
  at::Tensor y = mlp_half(x2, keep_mlp ? saved : nullptr);
  if (saved != nullptr) {
    saved->x = x;
    if (recompute != Recompute::block) saved->x2 = x2;
    if (recompute == Recompute::norm_swiglu) {
      saved->h1.reset();
      saved->h2.reset();
      saved->m.reset();
    }
  }
  return y;
}

at::Tensor LlamaBlock::mlp_backward(const at::Tensor& dy, const BlockContext& context, BlockSaved& saved, BackwardMode mode) {
  if (!saved.gate.defined()) mlp_half(saved.x2, &saved);
  if (!saved.h2.defined()) saved.h2 = rms_norm_from(saved.x2, saved.rstd2, norm2_.value);
  if (!saved.m.defined()) saved.m = swiglu(saved.gate, saved.up);
  at::Tensor dm;
  linear_backward(linear(down_proj), saved.m, dy, dm, context, mode);
  saved.m.reset();
  SwigluGrad grad = swiglu_backward(dm, saved.gate, saved.up);
  dm.reset();
  saved.gate.reset();
  saved.up.reset();
  at::Tensor dh2;
  linear_backward(linear(gate_proj), saved.h2, grad.gate, dh2, context, mode);
  linear_backward(linear(up_proj), saved.h2, grad.up, dh2, context, mode);
  return norm_backward(dh2, saved.x2, saved.rstd2, norm2_, context, mode).add_(dy);
}

at::Tensor LlamaBlock::attention_backward_half(const at::Tensor& dx2, const BlockContext& context, BlockSaved& saved, BackwardMode mode) {
  if (!saved.q.defined()) attention_half(saved.x, context, &saved);
  if (!saved.h1.defined()) saved.h1 = rms_norm_from(saved.x, saved.rstd1, norm1_.value);
  at::Tensor dattended;
  linear_backward(linear(o_proj), join_heads(saved.attention.out), dx2, dattended, context, mode);
  const at::Tensor dout = split_heads(dattended, context, head_dim_).transpose(1, 2);
  AttentionGrad grad = attention_backward(dout, saved.q, saved.k, saved.v, context.mask, saved.attention);
  saved.q.reset();
  saved.k.reset();
  saved.v.reset();
  saved.attention = {};
  const auto unrotate = [&](const at::Tensor& g) {   // [B, H, T, D] -> [N, H D]
    return apply_rope(g.transpose(1, 2), *context.rope, context.first_position, true).view({g.size(0) * g.size(2), g.size(1) * g.size(3)});
  };
  at::Tensor dh1;
  linear_backward(linear(q_proj), saved.h1, unrotate(grad.q), dh1, context, mode);
  linear_backward(linear(k_proj), saved.h1, unrotate(grad.k), dh1, context, mode);
  linear_backward(linear(v_proj), saved.h1, join_heads(grad.v), dh1, context, mode);
  return norm_backward(dh1, saved.x, saved.rstd1, norm1_, context, mode).add_(dx2);
}

at::Tensor LlamaBlock::backward(at::Tensor dy, const BlockContext& context, BlockSaved saved, BackwardMode mode) {
  if (!saved.x2.defined()) saved.x2 = attention_half(saved.x, context, &saved);
  dy = mlp_backward(dy, context, saved, mode);
  saved.x2.reset();
  saved.h2.reset();
  return attention_backward_half(dy, context, saved, mode);
}

at::Tensor LlamaBlock::forward_cached(const at::Tensor& x, const BlockContext& context, at::Tensor& keys, at::Tensor& values) const {
  Qkv qkv = project_qkv(rms_norm(x, norm1_.value, norm_eps_).y, context);
  keys = keys.defined() ? at::cat({keys, qkv.k}, 2) : qkv.k;
  values = values.defined() ? at::cat({values, qkv.v}, 2) : qkv.v;
  // A single new token sees everything; a first stretch is causal within itself.
  const AttentionSaved attended = attention(qkv.q, keys, values, {}, context.length > 1);
  return mlp_half(x + linear(o_proj).forward(join_heads(attended.out)), nullptr);
}

std::vector<Linear*> LlamaBlock::linears() {
  std::vector<Linear*> result;
  for (auto& linear : linears_) result.push_back(linear.get());
  return result;
}

std::vector<Parameter*> LlamaBlock::parameters() {
  std::vector<Parameter*> result = {&norm1_};
  for (auto& linear : linears_) {
    const auto own = linear->parameters();
    result.insert(result.end(), own.begin(), own.end());
  }
  result.push_back(&norm2_);
  return result;
}

bool LlamaBlock::probing() const {
  return std::any_of(linears_.begin(), linears_.end(), [](const auto& linear) { return linear->probing(); });
}

void LlamaBlock::save(StateWriter& out) const {
  out.tensor(norm1_.name, norm1_.value);
  out.tensor(norm2_.name, norm2_.value);
  for (const auto& linear : linears_) linear->save(out);
}

void LlamaBlock::load(const StateReader& in) {
  in.read_into(norm1_.name, norm1_.value);
  in.read_into(norm2_.name, norm2_.value);
  for (auto& linear : linears_) linear->load(in);
}

}  // namespace kumiko
