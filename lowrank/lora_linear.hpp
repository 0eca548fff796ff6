// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "framework/model/linear.hpp"
#include "lowrank/factor_pair.hpp"
#include "quant/quantized_tensor.hpp"

namespace kumiko::lowrank {

struct LoraLinearOptions {
  std::int64_t rank = 0;
  double scale = 1.0;                      // s, alpha / rank
  quant::QuantFormat weights;              // of the frozen matrix; codec none keeps it dense
  at::ScalarType factor_dtype = at::kFloat;
  at::ScalarType dense_dtype = at::kFloat; // of weights that are not quantized
  at::Device device = at::kCPU;
};

// What storing a merged weight lost; none where it is stored in fp32.
struct FoldLoss {
  double weight_error = 0.0;                // |merged - stored| / |merged|
  std::optional<double> retained_update;    // <stored - before, update> / |update|^2; none where the update is 0
};

// A frozen, perhaps quantized weight and a trained product: y = x W^T + s (x A^T) B^T (LoRA, arXiv 2106.09685; QLoRA,
// arXiv 2305.14314).
class LoraLinear final : public Linear {
 public:
  // A is drawn from `seed`, B is zero.
  LoraLinear(const LinearSpec& spec, const at::Tensor& initial, const LoraLinearOptions& options, std::uint64_t seed);

  at::Tensor forward(const at::Tensor& x) const override;
  void backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) override;
  at::Tensor effective_weight() const override { return dense_weight(at::kFloat); }
  std::vector<Parameter*> parameters() override { return factors_.parameters(); }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;
  std::int64_t frozen_nbytes() const override { return weight_.nbytes(); }

  // W <- W + s B A, stored again in its format, by stochastic rounding with a seed and to the nearest without. The factors stay:
  // draw_factors() follows. Needs four dense fp32 matrices of its size.
  std::optional<FoldLoss> fold(std::optional<std::uint64_t> rounding_seed);
  void draw_factors(std::uint64_t seed);   // A anew, B zero

  // For a rank that receives a fold: makes room for it, to be written into through weight().storage().
  void prepare_to_receive();

  const quant::QuantizedTensor& weight() const noexcept { return weight_; }
  FactorPair& factors() noexcept { return factors_; }
  const LoraLinearOptions& options() const noexcept { return options_; }

 private:
  at::Tensor dense_weight(at::ScalarType dtype) const;   // W + s B A, [out, in]
  // Forming W + s B A costs in * out * r, applying the factors apart costs N (in + out) r.
  bool folds(std::int64_t rows) const noexcept;

  LoraLinearOptions options_;
  quant::QuantizedTensor weight_;
  FactorPair factors_;
};

}  // namespace kumiko::lowrank
