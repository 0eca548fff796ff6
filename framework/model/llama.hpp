// SPDX-License-Identifier: Apache-2.0
// LLaMA (Touvron et al. 2023): RMSNorm, RoPE, SwiGLU, grouped-query attention, tied or untied head.
#pragma once

#include <memory>
#include <vector>

#include "framework/model/language_model.hpp"
#include "framework/model/llama_block.hpp"

namespace kumiko {

struct ComputeOptions {
  at::ScalarType compute_dtype = at::kFloat;   // activations and products: fp32, bf16 or fp16
  at::ScalarType param_dtype = at::kFloat;     // stored trained parameters: fp32 or bf16
  at::Device device = at::kCPU;
  std::uint64_t seed = 42;
  Recompute recompute = Recompute::none;
  std::int64_t document_end = -1;              // an EOS id: attention stays within documents; -1: it does not
};

class Llama final : public LanguageModel {
 public:
  // Matrices start as N(0, init_std^2), each from its own stream of the seed, and are made one at a time.
  Llama(const ModelOptions& options, const ComputeOptions& compute, LinearFactory& factory);

  const ModelOptions& options() const noexcept override { return options_; }
  at::Tensor forward_backward(const at::Tensor& tokens, const at::Tensor& targets, double grad_scale, BackwardMode mode,
                              GradSink* sink = nullptr) override;
  at::Tensor loss_sum(const at::Tensor& tokens, const at::Tensor& targets) const override;
  at::Tensor logits(const at::Tensor& tokens) const override;
  at::Tensor next_logits(const at::Tensor& tokens, KvCache& cache) const override;
  std::vector<Parameter*> parameters() override;
  std::vector<Linear*> linears() override;
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

 private:
  BlockContext make_context(const at::Tensor& tokens, std::int64_t first_position) const;
  at::Tensor hidden(const at::Tensor& tokens) const;   // [N, d] after the last norm
  Parameter& head() { return options_.tie_embeddings ? embedding_ : head_; }
  const Parameter& head() const { return options_.tie_embeddings ? embedding_ : head_; }

  ModelOptions options_;
  ComputeOptions compute_;
  RopeTable rope_;
  Parameter embedding_, norm_, head_;
  std::vector<LlamaBlock> blocks_;
};

}  // namespace kumiko
