// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "framework/model/linear.hpp"

namespace kumiko::lowrank {

// s B A of rank r: trained factors A [r, in] and B [out, r], named spec.name + ".lora_A" and ".lora_B". Both start at zero.
class FactorPair {
 public:
  FactorPair(const LinearSpec& spec, std::int64_t rank, double scale, at::ScalarType dtype, at::Device device);

  // x [N, in], y [N, out]: y += s (x A^T) B^T, or y = s (x A^T) B^T where y is undefined.
  void add_forward(const at::Tensor& x, at::Tensor& y) const;
  // In update mode adds s (dy B)^T x to dL/dA and s dy^T (x A^T) to dL/dB, never forming dL/d(BA). With `dx`: a defined tensor
  // [N, in] gets s (dy B) A added, an undefined one is assigned.
  void backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode);
  // weight [out, in] += s B A, in the weight's dtype.
  void lift_into(at::Tensor& weight) const;
  at::Tensor product() const;   // s B A, fp32

  // Uniform in +-1/sqrt(in) and +-1/sqrt(r): Kaiming's rule with a = sqrt(5), which peft and torch.nn.Linear use.
  void draw_a(std::uint64_t seed);
  void draw_b(std::uint64_t seed);

  Parameter& a() noexcept { return a_; }
  Parameter& b() noexcept { return b_; }
  std::vector<Parameter*> parameters() { return {&a_, &b_}; }
  void save(StateWriter& out) const;
  void load(const StateReader& in);

 private:
  double scale_;
  Parameter a_, b_;
};

}  // namespace kumiko::lowrank
