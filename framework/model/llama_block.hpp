// SPDX-License-Identifier: Apache-2.0
// One transformer block: attention and MLP, each behind an RMSNorm and a residual, forward and hand-written backward.
#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "framework/model/attention.hpp"
#include "framework/model/language_model.hpp"
#include "framework/model/linear.hpp"
#include "framework/model/rope.hpp"

namespace kumiko {

// What the backward pass computes again instead of keeping: nothing; the norms' and SwiGLU's outputs; the attention half;
// the MLP half; the whole block.
enum class Recompute { none, norm_swiglu, attention, mlp, block };

// The sink of a pass, or nobody.
class GradWatch {
 public:
  GradWatch(GradSink* sink = nullptr) : sink_(sink) {}
  void open(Parameter& parameter) const {
    if (sink_ != nullptr) sink_->open(parameter);
  }
  void close(Parameter& parameter) const {
    if (sink_ != nullptr) sink_->close(parameter);
  }

 private:
  GradSink* sink_;
};

// What all blocks share in one pass. B sequences of T tokens; rows of activations are N = B T.
struct BlockContext {
  std::int64_t batch = 0;
  std::int64_t length = 0;
  std::int64_t first_position = 0;
  const RopeTable* rope = nullptr;
  at::Tensor mask;   // additive, or undefined for plain causal
  GradWatch grads;
};

// Activations kept for the backward pass; what is undefined is computed again. Rows N, features as named.
struct BlockSaved {
  at::Tensor x;                  // [N, d] input
  at::Tensor h1, rstd1;          // first norm
  at::Tensor q, k, v;            // [B, H, T, D] rotated
  AttentionSaved attention;
  at::Tensor x2;                 // [N, d] after attention
  at::Tensor h2, rstd2;
  at::Tensor gate, up, m;        // [N, intermediate]
};

class LlamaBlock {
 public:
  // `initial` gives the starting value of each matrix.
  LlamaBlock(const ModelOptions& options, std::int64_t index, std::vector<std::unique_ptr<Linear>> linears, at::ScalarType dtype,
             at::Device device);

  // x [N, d] -> [N, d]. With `saved`, keeps what the backward pass needs at this recompute level.
  at::Tensor forward(const at::Tensor& x, const BlockContext& context, Recompute recompute, BlockSaved* saved) const;
  // Consumes `saved`; returns dL/dx.
  at::Tensor backward(at::Tensor dy, const BlockContext& context, BlockSaved saved, BackwardMode mode);
  // One more stretch of tokens against cached keys and values, which it extends.
  at::Tensor forward_cached(const at::Tensor& x, const BlockContext& context, at::Tensor& keys, at::Tensor& values) const;

  std::vector<Parameter*> parameters();
  std::vector<Linear*> linears();
  bool probing() const;
  void save(StateWriter& out) const;
  void load(const StateReader& in);

 private:
  struct Qkv {
    at::Tensor q, k, v;
  };
  Qkv project_qkv(const at::Tensor& h1, const BlockContext& context) const;
  at::Tensor attention_half(const at::Tensor& x, const BlockContext& context, BlockSaved* saved) const;   // returns x2
  at::Tensor mlp_half(const at::Tensor& x2, BlockSaved* saved) const;
  at::Tensor mlp_backward(const at::Tensor& dy, const BlockContext& context, BlockSaved& saved, BackwardMode mode);
  at::Tensor attention_backward_half(const at::Tensor& dx2, const BlockContext& context, BlockSaved& saved, BackwardMode mode);

  std::int64_t heads_, groups_, head_dim_;
  double norm_eps_;
  Parameter norm1_, norm2_;
  enum Index : std::size_t { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj };
  Linear& linear(Index index) { return *linears_[index]; }
  const Linear& linear(Index index) const { return *linears_[index]; }

  std::vector<std::unique_ptr<Linear>> linears_;   // by Index
};

}  // namespace kumiko
