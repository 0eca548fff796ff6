// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "lowrank/compensation.hpp"
#include "lowrank/probed_linear.hpp"

namespace kumiko::lowrank {

struct LoqtLinearOptions {
  std::int64_t rank = 0;
  bool adapts_rank = false;                // a merge may bring another rank
  double scale = 0.5;                      // s in y = x W^T + s x lift(B)^T
  int compensation_iterations = 5;
  quant::QuantFormat weights;              // codec none: LoQT-nq
  quant::QuantFormat basis;
  at::ScalarType factor_dtype = at::kFloat;
  at::ScalarType dense_dtype = at::kFloat; // of weights that are not quantized
  at::Device device = at::kCPU;
};

// With M = W + s lift(B) before and E = W' + s lift'(B') after a merge, U = M - W what was folded in:
struct MergeResult {
  double weight_error = 0.0;                // |M - E| / |M|
  std::optional<double> retained_update;    // <E - W, U> / <U, U>: 1 keeps all of the update, 0 none; none where U is 0
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

  // A merge, worked out but not done: needs one dense fp32 copy of the weight and a few temporaries of its size.
  struct Merge {
    quant::QuantizedTensor weight;
    at::Tensor factor;
    Projector projector;
    MergeResult result;
  };
  // Folds the factor into the weight, requantizes, and starts a compensating factor over `next`, which may have another rank.
  // With a seed, requantization rounds stochastically.
  Merge prepare_merge(Projector next, std::optional<std::uint64_t> stochastic_seed = std::nullopt) const;
  void commit(Merge merge);

  const quant::QuantizedTensor& weight() const noexcept { return weight_; }
  Parameter& factor() noexcept { return factor_; }
  const LoqtLinearOptions& options() const noexcept { return options_; }

  // For a rank that receives a merge: makes room for a basis of `rank`. All tensors of the layer's state, live.
  void prepare_to_receive(std::int64_t rank);
  std::vector<at::Tensor> state_tensors();

 private:
  at::Tensor dense_weight(at::ScalarType dtype) const;   // W + s lift(B), [out, in]
  // Forming W + s lift(B) costs in * out * r, applying the factor apart costs N (in + out) r.
  bool folds(std::int64_t rows) const noexcept;
  void resize(std::int64_t rank);   // a new factor of zeros where the rank is another

  LoqtLinearOptions options_;
  quant::QuantizedTensor weight_;
  Parameter factor_;
};

}  // namespace kumiko::lowrank
