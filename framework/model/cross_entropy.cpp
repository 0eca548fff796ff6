// SPDX-License-Identifier: Apache-2.0
#include "framework/model/cross_entropy.hpp"

#include <algorithm>

#include <ATen/ATen.h>

namespace kumiko {
namespace {

// Legend: N rows, V vocabulary, d hidden, c rows of a chunk.
HeadLoss chunked_loss(const at::Tensor& hidden, const Parameter& head, at::Tensor* head_grad, const at::Tensor& targets,
                      double grad_scale, bool want_grad) {
  const at::Tensor weight_Vd = head.value.to(hidden.scalar_type());
  const std::int64_t rows = hidden.size(0);
  const std::int64_t chunk = head_chunk_rows(weight_Vd.size(0));
  HeadLoss result;
  result.loss_sum = at::zeros({}, hidden.options().dtype(at::kDouble));
  if (want_grad) result.dhidden = at::empty_like(hidden);
  for (std::int64_t begin = 0; begin < rows; begin += chunk) {
    const std::int64_t count = std::min(chunk, rows - begin);
    const at::Tensor hidden_cd = hidden.narrow(0, begin, count);
    const at::Tensor target_c = targets.narrow(0, begin, count);
    const at::Tensor counted_c = target_c.ne(kIgnoreTarget);
    const at::Tensor index_c1 = target_c.clamp_min(0).unsqueeze(1);

    at::Tensor logits_cV = at::mm(hidden_cd, weight_Vd.t()).to(at::kFloat);
    const at::Tensor peak_c1 = logits_cV.amax(1, /*keepdim=*/true);
    logits_cV.sub_(peak_c1);
    const at::Tensor target_logit_c1 = logits_cV.gather(1, index_c1);
    const at::Tensor sum_c1 = logits_cV.exp_().sum(1, /*keepdim=*/true);
    const at::Tensor loss_c = (sum_c1.log() - target_logit_c1).squeeze(1);
    result.loss_sum.add_(at::where(counted_c, loss_c, at::zeros({}, loss_c.options())).to(at::kDouble).sum());
    if (!want_grad) continue;

    const at::Tensor row_scale_c1 = counted_c.to(at::kFloat).mul_(grad_scale).unsqueeze(1);
    logits_cV.mul_(row_scale_c1 / sum_c1);
    logits_cV.scatter_add_(1, index_c1, row_scale_c1.neg());
    const at::Tensor dlogits_cV = logits_cV.to(hidden.scalar_type());
    at::Tensor dhidden_cd = result.dhidden.narrow(0, begin, count);
    at::mm_out(dhidden_cd, dlogits_cV, weight_Vd);
    if (head_grad == nullptr) continue;
    if (hidden.scalar_type() == at::kFloat) {
      head_grad->addmm_(dlogits_cV.t(), hidden_cd);
    } else {
      head_grad->add_(at::mm(dlogits_cV.t(), hidden_cd));
    }
  }
  return result;
}

}  // namespace

std::int64_t head_chunk_rows(std::int64_t vocab_size) {
  return std::clamp<std::int64_t>((std::int64_t{16} << 20) / std::max<std::int64_t>(vocab_size, 1), 64, 4096);
}

HeadLoss head_loss(const at::Tensor& hidden, const Parameter& head, const at::Tensor& targets) {
  return chunked_loss(hidden, head, nullptr, targets, 0.0, false);
}

HeadLoss head_loss_with_grad(const at::Tensor& hidden, Parameter& head, const at::Tensor& targets, double grad_scale, bool train_head) {
  return chunked_loss(hidden, head, train_head && head.grad.defined() ? &head.grad : nullptr, targets, grad_scale, true);
}

}  // namespace kumiko
