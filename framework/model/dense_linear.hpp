// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/linear.hpp"

namespace kumiko {

// A trained dense matrix, stored in `dtype` (fp32 or bf16), multiplied in the dtype of x.
class DenseLinear final : public Linear {
 public:
  DenseLinear(const LinearSpec& spec, const at::Tensor& initial, at::ScalarType dtype, at::Device device);
  at::Tensor forward(const at::Tensor& x) const override;
  void backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) override;
  at::Tensor effective_weight() const override;
  std::vector<Parameter*> parameters() override { return {&weight_}; }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

 private:
  Parameter weight_;
};

}  // namespace kumiko
