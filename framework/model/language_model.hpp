// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "framework/core/state.hpp"
#include "framework/model/linear.hpp"
#include "framework/model/model_options.hpp"
#include "framework/model/parameter.hpp"

namespace kumiko {

// Keys and values of the tokens seen, for generation.
struct KvCache {
  std::vector<at::Tensor> keys;     // per layer [B, G, S, D]
  std::vector<at::Tensor> values;
  std::int64_t length = 0;
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const ModelOptions& options() const noexcept = 0;
  // tokens, targets [B, T] int64. Returns the sum of token losses, [], fp64; adds the gradients of grad_scale * sum.
  // A probe's backward pass stops at the lowest linear that is probing. `sink` follows the gradients of an update; null: nobody.
  virtual at::Tensor forward_backward(const at::Tensor& tokens, const at::Tensor& targets, double grad_scale, BackwardMode mode,
                                      GradSink* sink = nullptr) = 0;
  virtual at::Tensor loss_sum(const at::Tensor& tokens, const at::Tensor& targets) const = 0;
  virtual at::Tensor logits(const at::Tensor& tokens) const = 0;                       // [B, T, V], fp32
  virtual at::Tensor next_logits(const at::Tensor& tokens, KvCache& cache) const = 0;  // appends [B, T]; logits of the last, [B, V], fp32
  virtual std::vector<Parameter*> parameters() = 0;   // trained ones, in a fixed order
  virtual std::vector<Linear*> linears() = 0;
  virtual void save(StateWriter& out) const = 0;
  virtual void load(const StateReader& in) = 0;
};

}  // namespace kumiko
