// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/linear.hpp"
#include "lowrank/factor_pair.hpp"

namespace kumiko::lowrank {

// W = B A with both factors trained and nothing else: y = (x A^T) B^T.
class LowRankLinear final : public Linear {
 public:
  LowRankLinear(const LinearSpec& spec, std::int64_t rank, at::ScalarType factor_dtype, at::Device device)
      : Linear(spec), factors_(spec, rank, 1.0, factor_dtype, device) {}

  // Both factors uniform, each by its own fan-in: what published code of this baseline does (factors without the matrix that
  // they were to adapt).
  void draw(std::uint64_t seed_a, std::uint64_t seed_b);
  // Spectral initialization (Khodak et al. 2021, arXiv 2105.01029; Kamalakara et al. 2022, arXiv 2209.13569): B A is the best
  // approximation of `initial` [out, in] of this rank, the singular values shared: B = U S^(1/2), A = S^(1/2) V^T, where the
  // largest element of each u is positive.
  void approximate(const at::Tensor& initial);

  at::Tensor forward(const at::Tensor& x) const override;
  void backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) override;
  at::Tensor effective_weight() const override { return factors_.product(); }
  std::vector<Parameter*> parameters() override { return factors_.parameters(); }
  void save(StateWriter& out) const override { factors_.save(out); }
  void load(const StateReader& in) override { factors_.load(in); }

  FactorPair& factors() noexcept { return factors_; }

 private:
  FactorPair factors_;
};

}  // namespace kumiko::lowrank
