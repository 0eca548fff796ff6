// SPDX-License-Identifier: Apache-2.0
#include "lowrank/low_rank_linear.hpp"

#include <ATen/ATen.h>

namespace kumiko::lowrank {

void LowRankLinear::draw(std::uint64_t seed_a, std::uint64_t seed_b) {
  factors_.draw_a(seed_a);
  factors_.draw_b(seed_b);
}

void LowRankLinear::approximate(const at::Tensor& initial) {
  const std::int64_t rank = factors_.a().value.size(0);
  const at::Tensor w = initial.to(at::kDouble);
  const bool tall = w.size(0) > w.size(1);
  const at::Tensor flat = tall ? w.t() : w;
  // Eigenvectors of the smaller Gram matrix: its leading ones are the leading singular vectors, at a fraction of an SVD's price.
  const auto [values, vectors] = at::linalg_eigh(at::mm(flat, flat.t()));
  const at::Tensor s = values.narrow(0, flat.size(0) - rank, rank).clamp_min(0.0).sqrt();
  const at::Tensor q = vectors.narrow(1, flat.size(0) - rank, rank);
  const at::Tensor root = s.sqrt();
  const at::Tensor inverse = at::where(s > 1e-7 * s.max(), root.reciprocal(), at::zeros_like(root));   // of a lower rank: 0
  const at::Tensor left = q * root;                                                                    // [m, r]
  const at::Tensor right = at::mm(q.t(), flat).mul_(inverse.unsqueeze(1));                             // [r, n]
  const at::Tensor b = tall ? right.t() : left;
  const at::Tensor a = tall ? left.t() : right;
  const at::Tensor signs = b.gather(0, b.abs().argmax(0, true)).sign();                                // [1, r]
  factors_.b().value.copy_(b * signs);
  factors_.a().value.copy_(a * signs.t());
}

at::Tensor LowRankLinear::forward(const at::Tensor& x) const {
  at::Tensor y;
  factors_.add_forward(x, y);
  return y;
}

void LowRankLinear::backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) {
  factors_.backward(x, dy, dx, mode);
}

}  // namespace kumiko::lowrank
