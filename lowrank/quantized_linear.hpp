// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "framework/model/linear.hpp"
#include "lowrank/method_options.hpp"
#include "quant/quantized_tensor.hpp"

namespace kumiko::lowrank {

struct QuantizedLinearOptions {
  quant::QuantFormat weights;
  Rounding rounding = Rounding::nearest;
  at::ScalarType dense_dtype = at::kFloat;   // of a weight that codec none keeps
  at::Device device = at::kCPU;
  std::uint64_t seed = 0;                    // of stochastic rounding
};

// A trained matrix that exists in its stored form only: decoded for each product, and for each update decoded to fp32, moved
// and quantized again (direct low-bit training; stochastic rounding keeps updates below half a level in expectation, Gupta et
// al. 2015). Its parameter is `name`.weight with itself as target.
class QuantizedLinear final : public Linear, private UpdateTarget {
 public:
  // initial [out, in]: rounded to nearest.
  QuantizedLinear(const LinearSpec& spec, const at::Tensor& initial, const QuantizedLinearOptions& options);

  at::Tensor forward(const at::Tensor& x) const override;
  void backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) override;
  at::Tensor effective_weight() const override { return weight_.dequantize(at::kFloat); }
  std::vector<Parameter*> parameters() override { return {&parameter_}; }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;   // CheckpointError for another format than this run's
  std::int64_t frozen_nbytes() const override { return weight_.nbytes(); }

  const quant::QuantizedTensor& weight() const noexcept { return weight_; }
  std::int64_t updates() const noexcept { return updates_; }

 private:
  void apply_update(at::Tensor& update, double decay) override;

  QuantizedLinearOptions options_;
  quant::QuantizedTensor weight_;
  std::int64_t updates_ = 0;   // names the random numbers of the next rounding
  Parameter parameter_;
};

}  // namespace kumiko::lowrank
