// SPDX-License-Identifier: Apache-2.0
#include "framework/model/llama_block.hpp"

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

}  // namespace

LlamaBlock::LlamaBlock(const ModelOptions& options, std::int64_t index, std::vector<std::unique_ptr<Linear>> linears,
                       at::ScalarType dtype, at::Device device)
    : heads_(options.n_heads), groups_(options.n_kv_heads), head_dim_(options.head_dim()), norm_eps_(options.norm_eps),
      norm1_(make_norm(concat("model.layers.", index, ".input_layernorm.weight"), options.hidden_size, dtype, device)),
      norm2_(make_norm(concat("model.layers.", index, ".post_attention_layernorm.weight"), options.hidden_size, dtype, device)),
      q_proj_(std::move(linears.at(0))), k_proj_(std::move(linears.at(1))), v_proj_(std::move(linears.at(2))),
      o_proj_(std::move(linears.at(3))), gate_proj_(std::move(linears.at(4))), up_proj_(std::move(linears.at(5))),
      down_proj_(std::move(linears.at(6))) {}

LlamaBlock::Qkv LlamaBlock::project_qkv(const at::Tensor& h1, const BlockContext& context) const {
  Qkv result;
  result.q = apply_rope(split_heads(q_proj_->forward(h1), context, head_dim_), *context.rope, context.first_position, false).transpose(1, 2);
  result.k = apply_rope(split_heads(k_proj_->forward(h1), context, head_dim_), *context.rope, context.first_position, false).transpose(1, 2);
  result.v = split_heads(v_proj_->forward(h1), context, head_dim_).transpose(1, 2);
  return result;
}

at::Tensor LlamaBlock::attention_half(const at::Tensor& x, const BlockContext& context, BlockSaved* saved) const {
  RmsNormOutput norm = rms_norm(x, norm1_.value, norm_eps_);
  Qkv qkv = project_qkv(norm.y, context);
  AttentionSaved attended = attention(qkv.q, qkv.k, qkv.v, context.mask, true);
  at::Tensor x2 = x + o_proj_->forward(join_heads(attended.out));
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
  at::Tensor gate = gate_proj_->forward(norm.y);
  at::Tensor up = up_proj_->forward(norm.y);
  at::Tensor m = swiglu(gate, up);
  at::Tensor y = x2 + down_proj_->forward(m);
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

at::Tensor LlamaBlock::mlp_backward(const at::Tensor& dy, BlockSaved& saved, BackwardMode mode) {
  if (!saved.gate.defined()) mlp_half(saved.x2, &saved);
  if (!saved.h2.defined()) saved.h2 = rms_norm_from(saved.x2, saved.rstd2, norm2_.value);
  if (!saved.m.defined()) saved.m = swiglu(saved.gate, saved.up);
  at::Tensor dm;
  down_proj_->backward(saved.m, dy, &dm, mode);
  saved.m.reset();
  SwigluGrad grad = swiglu_backward(dm, saved.gate, saved.up);
  dm.reset();
  saved.gate.reset();
  saved.up.reset();
  at::Tensor dh2;
  gate_proj_->backward(saved.h2, grad.gate, &dh2, mode);
  up_proj_->backward(saved.h2, grad.up, &dh2, mode);
  return rms_norm_backward(dh2, saved.x2, saved.rstd2, norm2_, mode == BackwardMode::update).add_(dy);
}

at::Tensor LlamaBlock::attention_backward_half(const at::Tensor& dx2, const BlockContext& context, BlockSaved& saved, BackwardMode mode) {
  if (!saved.q.defined()) attention_half(saved.x, context, &saved);
  if (!saved.h1.defined()) saved.h1 = rms_norm_from(saved.x, saved.rstd1, norm1_.value);
  at::Tensor dattended;
  o_proj_->backward(join_heads(saved.attention.out), dx2, &dattended, mode);
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
  q_proj_->backward(saved.h1, unrotate(grad.q), &dh1, mode);
  k_proj_->backward(saved.h1, unrotate(grad.k), &dh1, mode);
  v_proj_->backward(saved.h1, join_heads(grad.v), &dh1, mode);
  return rms_norm_backward(dh1, saved.x, saved.rstd1, norm1_, mode == BackwardMode::update).add_(dx2);
}

at::Tensor LlamaBlock::backward(at::Tensor dy, const BlockContext& context, BlockSaved saved, BackwardMode mode) {
  if (!saved.x2.defined()) saved.x2 = attention_half(saved.x, context, &saved);
  dy = mlp_backward(dy, saved, mode);
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
  return mlp_half(x + o_proj_->forward(join_heads(attended.out)), nullptr);
}

std::vector<Linear*> LlamaBlock::linears() {
  return {q_proj_.get(), k_proj_.get(), v_proj_.get(), o_proj_.get(), gate_proj_.get(), up_proj_.get(), down_proj_.get()};
}

std::vector<Parameter*> LlamaBlock::parameters() {
  std::vector<Parameter*> result = {&norm1_};
  for (Linear* linear : linears()) {
    const auto own = linear->parameters();
    result.insert(result.end(), own.begin(), own.end());
  }
  result.push_back(&norm2_);
  return result;
}

bool LlamaBlock::probing() const {
  for (const Linear* linear : const_cast<LlamaBlock*>(this)->linears()) {
    if (linear->probing()) return true;
  }
  return false;
}

void LlamaBlock::save(StateWriter& out) const {
  out.tensor(norm1_.name, norm1_.value);
  out.tensor(norm2_.name, norm2_.value);
  for (const Linear* linear : const_cast<LlamaBlock*>(this)->linears()) linear->save(out);
}

void LlamaBlock::load(const StateReader& in) {
  in.read_into(norm1_.name, norm1_.value);
  in.read_into(norm2_.name, norm2_.value);
  for (Linear* linear : linears()) linear->load(in);
}

}  // namespace kumiko
