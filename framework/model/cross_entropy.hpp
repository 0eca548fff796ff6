// SPDX-License-Identifier: Apache-2.0
// The language-model head and its loss in one, in row chunks, so that the logits of a batch never exist as a whole.
#pragma once

#include <ATen/core/Tensor.h>

#include "framework/model/parameter.hpp"

namespace kumiko {

inline constexpr std::int64_t kIgnoreTarget = -100;

struct HeadLoss {
  at::Tensor loss_sum;   // [], fp64: sum of -log p(target) over targets that are not kIgnoreTarget
  at::Tensor dhidden;    // [N, d], dtype of hidden; undefined without gradients
};

// hidden [N, d] in the compute dtype, head.value [V, d], targets [N] int64. Loss and softmax in fp32.
HeadLoss head_loss(const at::Tensor& hidden, const Parameter& head, const at::Tensor& targets);

// The same with gradients of grad_scale * loss_sum; adds dL/dhead to head.grad where that is bound and `train_head` holds.
HeadLoss head_loss_with_grad(const at::Tensor& hidden, Parameter& head, const at::Tensor& targets, double grad_scale, bool train_head);

// Rows of a chunk for a vocabulary: bounds the fp32 logits to 64 MiB.
std::int64_t head_chunk_rows(std::int64_t vocab_size);

}  // namespace kumiko
