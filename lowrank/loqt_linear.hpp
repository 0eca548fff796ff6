// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "lowrank/compensation.hpp"
#include "lowrank/probed_linear.hpp"

namespace kumiko::lowrank {

struct LoqtLinearOptions {
  std::int64_t rank = 0;
  double scale = 0.5;                      // s in y = x W^T + s x lift(B)^T
  int compensation_iterations = 5;
  quant::QuantFormat weights;              // codec none: LoQT-nq
  quant::QuantFormat basis;
  at::ScalarType factor_dtype = at::kFloat;
  at::ScalarType dense_dtype = at::kFloat; // of weights that are not quantized
  at::Device device = at::kCPU;
};

// A frozen, quantized weight, a basis and one trained factor (LoQT, arXiv 2405.16528). Knows no step, no schedule, no rank.
// While it is probed the factor stays active, so that the gradient is the one at W + s lift(B).
class LoqtLinear final : public ProbedLinear {
 public:
  LoqtLinear(const LinearSpec& spec, const at::Tensor& initial, const LoqtLinearOptions& options);

  at::Tensor forward(const at::Tensor& x) const override;
  void backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) override;
  at::Tensor effective_weight() const override;
  std::vector<Parameter*> parameters() override { return {&factor_}; }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;
  std::int64_t frozen_nbytes() const override;

  // Folds the factor into the weight, requantizes, and starts a compensating factor over `next`. Returns the relative error
  // |merged - stored|_F / |merged|_F. Needs one dense fp32 copy of the weight and a few temporaries of its size.
  double merge(Projector next);

  const quant::QuantizedTensor& weight() const noexcept { return weight_; }
  Parameter& factor() noexcept { return factor_; }
  const LoqtLinearOptions& options() const noexcept { return options_; }

  // For a rank that receives a merge: makes room for it. All tensors of the layer's state, live.
  void prepare_to_receive();
  std::vector<at::Tensor> state_tensors();

 private:
  at::Tensor dense_weight(at::ScalarType dtype) const;   // W + s lift(B), [out, in]
  // Forming W + s lift(B) costs in * out * r, applying the factor apart costs N (in + out) r.
  bool folds(std::int64_t rows) const noexcept;

  LoqtLinearOptions options_;
  quant::QuantizedTensor weight_;
  Parameter factor_;
};

}  // namespace kumiko::lowrank
