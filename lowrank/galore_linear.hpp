// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lowrank/method_options.hpp"
#include "lowrank/probed_linear.hpp"

namespace kumiko::lowrank {

struct GaloreLinearOptions {
  std::int64_t rank = 0;
  double scale = 0.25;                      // s in W <- W + s lift(update)
  StorageOptions storage;                   // weights of codec none: dense in `dense_dtype`
  std::uint64_t seed = 0;                   // of stochastic rounding
  at::ScalarType dense_dtype = at::kFloat;  // fp32 or bf16
};

// A weight, dense or quantized, that moves in the space of a basis of its gradient (GaLore, arXiv
// 2403.03507). With G = dL/dW only R = P^T-part of G is formed, Projector::add_gradient; it is linear in G,
// so sums of it over micro-batches and ranks are those of the projected sum. The parameter is R-shaped; what
// its update rule makes of R is lifted and added to the weight. Bases are of the smaller side, as in the
// published code: of right singular vectors (P [in, r]) where out >= in, also for square matrices.
class GaloreLinear final : public ProbedLinear, private UpdateTarget {
 public:
  GaloreLinear(const LinearSpec& spec, const at::Tensor& initial, const GaloreLinearOptions& options);

  at::Tensor forward(const at::Tensor& x) const override;
  void backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) override;
  at::Tensor effective_weight() const override { return weight_.dequantize(at::kFloat); }
  std::vector<Parameter*> parameters() override { return {&parameter_}; }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;
  std::int64_t frozen_nbytes() const override;

  const quant::QuantizedTensor& weight() const noexcept { return weight_; }
  const std::string& param_name() const noexcept { return parameter_.name; }
  void install(Projector next) { projector_ = std::move(next); }
  // For a rank that receives a basis: makes room for it. All tensors of the layer's state, live.
  void prepare_to_receive();
  std::vector<at::Tensor> state_tensors() const;

 private:
  // W <- (1 - decay) W + s lift(update) in fp32, rounded once; nothing before there is a basis.
  void apply_update(at::Tensor& update, double decay) override;

  GaloreLinearOptions options_;
  quant::QuantizedTensor weight_;
  Parameter parameter_;
  std::int64_t updates_ = 0;  // applied ones: names the random numbers of stochastic rounding
};

}  // namespace kumiko::lowrank
