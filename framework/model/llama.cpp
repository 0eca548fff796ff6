// SPDX-License-Identifier: Apache-2.0
#include "framework/model/llama.hpp"

#include <algorithm>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"
#include "framework/model/cross_entropy.hpp"
#include "framework/model/embedding.hpp"
#include "framework/model/rms_norm.hpp"

namespace kumiko {
namespace {

at::Tensor normal_init(std::int64_t rows, std::int64_t columns, double std, std::uint64_t seed, const std::string& name) {
  at::Tensor values = at::empty({rows, columns}, at::kFloat);
  fill_normal(values, std, stream_seed(seed, name));
  return values;
}

}  // namespace

Llama::Llama(const ModelOptions& options, const ComputeOptions& compute, LinearFactory& factory)
    : options_(options), compute_(compute),
      rope_(make_rope_table(options.max_sequence_length, options.head_dim(), options.rope_theta, compute.device)) {
  const auto table = [&](const std::string& name, ParamRole role) {
    return Parameter{name, role,
                     normal_init(options.vocab_size, options.hidden_size, options.init_std, compute.seed, name)
                         .to(compute.device, compute.param_dtype),
                     {}};
  };
  embedding_ = table("model.embed_tokens.weight", ParamRole::embedding);
  embedding_.output_dim = 1;
  if (!options.tie_embeddings) head_ = table("lm_head.weight", ParamRole::head);
  head().is_last_layer = true;
  norm_ = {"model.norm.weight", ParamRole::norm,
           at::ones({options.hidden_size}, at::TensorOptions().dtype(compute.param_dtype).device(compute.device)), {}};
  const auto specs = options.linear_specs();
  blocks_.reserve(static_cast<std::size_t>(options.n_layers));
  for (std::int64_t layer = 0; layer < options.n_layers; ++layer) {
    std::vector<std::unique_ptr<Linear>> linears;
    for (std::size_t i = 0; i < 7; ++i) {
      const LinearSpec& spec = specs[static_cast<std::size_t>(layer) * 7 + i];
      linears.push_back(factory.make_linear(
          spec, normal_init(spec.out_features, spec.in_features, options.init_std, compute.seed, spec.name).to(compute.device)));
    }
    blocks_.emplace_back(options, layer, std::move(linears), compute.param_dtype, compute.device);
  }
}

BlockContext Llama::make_context(const at::Tensor& tokens, std::int64_t first_position) const {
  KUMIKO_EXPECTS(first_position + tokens.size(1) <= options_.max_sequence_length, UsageError, "a sequence of ",
                 first_position + tokens.size(1), " tokens is longer than model.max_sequence_length ", options_.max_sequence_length);
  BlockContext context{tokens.size(0), tokens.size(1), first_position, &rope_, {}};
  if (compute_.document_end >= 0 && first_position == 0) {
    context.mask = document_mask(tokens, compute_.document_end, compute_.compute_dtype);
  }
  return context;
}

at::Tensor Llama::forward_backward(const at::Tensor& tokens, const at::Tensor& targets, double grad_scale, BackwardMode mode,
                                   GradSink* sink) {
  BlockContext context = make_context(tokens, 0);
  const at::Tensor flat_tokens = tokens.reshape({-1});
  const bool update = mode == BackwardMode::update;
  context.grads = {update ? sink : nullptr};
  std::size_t lowest = 0;   // first block that the backward pass enters
  if (!update) {
    while (lowest < blocks_.size() && !blocks_[lowest].probing()) ++lowest;
  }
  std::vector<BlockSaved> saved(blocks_.size());
  at::Tensor x = embed(flat_tokens, embedding_, compute_.compute_dtype);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    x = blocks_[i].forward(x, context, compute_.recompute, i >= lowest ? &saved[i] : nullptr);
  }
  RmsNormOutput norm = rms_norm(x, norm_.value, options_.norm_eps);
  if (!update && lowest == blocks_.size()) return head_loss(norm.y, head(), targets.reshape({-1})).loss_sum;
  context.grads.open(head());
  HeadLoss loss = head_loss_with_grad(norm.y, head(), targets.reshape({-1}), grad_scale, update);
  if (!options_.tie_embeddings) context.grads.close(head());
  norm.y.reset();
  context.grads.open(norm_);
  at::Tensor dx = rms_norm_backward(loss.dhidden, x, norm.rstd, norm_, update);
  context.grads.close(norm_);
  loss.dhidden.reset();
  x.reset();
  for (std::size_t i = blocks_.size(); i-- > lowest;) dx = blocks_[i].backward(dx, context, std::move(saved[i]), mode);
  if (update) {
    if (!options_.tie_embeddings) context.grads.open(embedding_);
    embed_backward(dx, flat_tokens, embedding_);
    context.grads.close(embedding_);
  }
  return loss.loss_sum;
}

at::Tensor Llama::hidden(const at::Tensor& tokens) const {
  const BlockContext context = make_context(tokens, 0);
  at::Tensor x = embed(tokens.reshape({-1}), embedding_, compute_.compute_dtype);
  for (const auto& block : blocks_) x = block.forward(x, context, Recompute::none, nullptr);
  return rms_norm(x, norm_.value, options_.norm_eps).y;
}

at::Tensor Llama::loss_sum(const at::Tensor& tokens, const at::Tensor& targets) const {
  return head_loss(hidden(tokens), head(), targets.reshape({-1})).loss_sum;
}

at::Tensor Llama::logits(const at::Tensor& tokens) const {
  return at::mm(hidden(tokens), head().value.to(compute_.compute_dtype).t()).to(at::kFloat).view({tokens.size(0), tokens.size(1), -1});
}

at::Tensor Llama::next_logits(const at::Tensor& tokens, KvCache& cache) const {
  KUMIKO_EXPECTS(cache.length == 0 || tokens.size(1) == 1, ShapeError, "a filled cache takes one token at a time, got ", tokens.size(1));
  const BlockContext context = make_context(tokens, cache.length);
  cache.keys.resize(blocks_.size());
  cache.values.resize(blocks_.size());
  at::Tensor x = embed(tokens.reshape({-1}), embedding_, compute_.compute_dtype);
  for (std::size_t i = 0; i < blocks_.size(); ++i) x = blocks_[i].forward_cached(x, context, cache.keys[i], cache.values[i]);
  cache.length += tokens.size(1);
  const at::Tensor last = x.view({tokens.size(0), tokens.size(1), -1}).select(1, tokens.size(1) - 1);
  const at::Tensor normalized = rms_norm(last, norm_.value, options_.norm_eps).y;
  return at::mm(normalized, head().value.to(compute_.compute_dtype).t()).to(at::kFloat);
}

std::vector<Linear*> Llama::linears() {
  std::vector<Linear*> result;
  for (auto& block : blocks_) {
    const auto own = block.linears();
    result.insert(result.end(), own.begin(), own.end());
  }
  return result;
}

std::vector<Parameter*> Llama::parameters() {
  std::vector<Parameter*> result = {&embedding_};
  for (auto& block : blocks_) {
    const auto own = block.parameters();
    result.insert(result.end(), own.begin(), own.end());
  }
  result.push_back(&norm_);
  if (!options_.tie_embeddings) result.push_back(&head_);
  return result;
}

void Llama::save(StateWriter& out) const {
  out.tensor(embedding_.name, embedding_.value);
  for (const auto& block : blocks_) block.save(out);
  out.tensor(norm_.name, norm_.value);
  if (!options_.tie_embeddings) out.tensor(head_.name, head_.value);
}

void Llama::load(const StateReader& in) {
  in.read_into(embedding_.name, embedding_.value);
  for (auto& block : blocks_) block.load(in);
  in.read_into(norm_.name, norm_.value);
  if (!options_.tie_embeddings) in.read_into(head_.name, head_.value);
}

}  // namespace kumiko
