// SPDX-License-Identifier: Apache-2.0
// Optimizer state in 8 bits (Dettmers, Lewis, Shleifer, Zettlemoyer, arXiv 2110.02861): blocks of 256, each
// with an fp32 absmax, in a dynamic data type (quant/scale_codec.hpp).
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kumiko::quant {

enum class Int8Map : std::uint8_t { with_sign, without_sign };  // first moments; second moments

class Int8State {
 public:
  static constexpr std::int64_t kBlock = 256;

  // All zeros, of any sizes.
  Int8State(at::IntArrayRef sizes, Int8Map map, at::Device device = at::kCPU);

  // fp32, of the state's sizes.
  at::Tensor dequantize() const;

  // Each value over its block's absmax takes the nearest code. value: fp32 of the same sizes, any strides,
  // not negative for a map without sign; ShapeError otherwise.
  void assign(const at::Tensor& value);

  at::IntArrayRef sizes() const noexcept { return sizes_; }
  std::int64_t numel() const { return codes_.numel(); }
  Int8Map map() const noexcept { return map_; }

  // What the state is made of. They share its memory: writing into them (a broadcast, a load) changes it.
  const at::Tensor& codes() const noexcept { return codes_; }    // uint8 [numel]
  const at::Tensor& absmax() const noexcept { return absmax_; }  // fp32 [ceil(numel / kBlock)]
  std::vector<at::Tensor> storage() const { return {codes_, absmax_}; }

  std::int64_t nbytes() const { return nbytes_for(numel()); }
  // nbytes() of a state of `numel` elements, without making one.
  static std::int64_t nbytes_for(std::int64_t numel);

 private:
  std::vector<std::int64_t> sizes_;
  Int8Map map_;
  at::Tensor codes_;
  at::Tensor absmax_;
};

struct Adam8bitStep {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  std::int64_t step;  // counted from 1
};

// AdamW (Loshchilov, Hutter, arXiv 1711.05101) on 8-bit moments, in fp32 and in the order of bitsandbytes'
// CPU backend:
//   m = fma(1 - beta1, g, beta1 m), v = fma((1 - beta2) g, g, beta2 v),
//   w = (1 - lr weight_decay) w - (lr / (1 - beta1^step) m) / (sqrt(v) / sqrt(1 - beta2^step) + eps),
// then m and v take their nearest codes, as in the paper. (bitsandbytes' CPU library alone takes them from a
// table of 2^16 equal steps, which misses most codes below 1e-3.) A second moment below 1.6e-7 of its block's
// largest becomes 0, so gradients that differ by more than 3.4 decades within a block can make large updates.
//
// value: fp32, contiguous, written in place; grad: fp32, contiguous, as many elements; first with sign,
// second without, as many elements; ShapeError otherwise. The result does not depend on the number of
// threads.
void adam8bit_step(at::Tensor& value, const at::Tensor& grad, Int8State& first, Int8State& second,
                   const Adam8bitStep& step);

}  // namespace kumiko::quant
