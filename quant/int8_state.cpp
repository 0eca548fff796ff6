// SPDX-License-Identifier: Apache-2.0
#include "quant/int8_state.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "framework/core/error.hpp"
#include "quant/dynamic_search.hpp"
#include "quant/int8_state_kernels.hpp"

namespace kumiko::quant {
namespace {

constexpr std::int64_t kGrainBlocks = 128;

std::int64_t blocks_of(std::int64_t numel) { return (numel + Int8State::kBlock - 1) / Int8State::kBlock; }

// Calls range(first element, elements, first block) on the threads.
template <class F>
void for_block_ranges(std::int64_t numel, const F& range) {
  at::parallel_for(0, blocks_of(numel), kGrainBlocks, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t begin = first * Int8State::kBlock;
    range(begin, std::min(last * Int8State::kBlock, numel) - begin, first);
  });
}

void check_on_cpu(const at::Tensor& tensor) {
  KUMIKO_EXPECTS(tensor.is_cpu(), NotBuiltError, "8-bit optimizer state: built without CUDA");
}

void check_plain(const char* what, const at::Tensor& tensor, std::int64_t numel) {
  KUMIKO_EXPECTS(tensor.scalar_type() == at::kFloat && tensor.is_contiguous() && tensor.numel() == numel,
                 ShapeError, "adam8bit_step needs a contiguous fp32 ", what, " of ", numel, " elements, got ",
                 tensor.scalar_type(), tensor.sizes(), tensor.is_contiguous() ? "" : ", not contiguous");
}

StateBlocks blocks_at(const Int8State& state, std::int64_t element, std::int64_t block) {
  return {.codes = state.codes().mutable_data_ptr<std::uint8_t>() + element,
          .absmax = state.absmax().mutable_data_ptr<float>() + block};
}

AdamFactors factors_of(const Adam8bitStep& step) {
  const auto count = static_cast<double>(step.step);
  return {.beta1 = static_cast<float>(step.beta1),
          .rest1 = static_cast<float>(1.0 - step.beta1),
          .beta2 = static_cast<float>(step.beta2),
          .rest2 = static_cast<float>(1.0 - step.beta2),
          .root_correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(step.beta2, count))),
          .eps = static_cast<float>(step.eps),
          .decay = static_cast<float>(1.0 - step.lr * step.weight_decay),
          .rate = static_cast<float>(-step.lr / (1.0 - std::pow(step.beta1, count)))};
}

}  // namespace

Int8State::Int8State(at::IntArrayRef sizes, Int8Map map, at::Device device) : sizes_(sizes.vec()), map_(map) {
  const auto options = at::TensorOptions().device(device);
  const std::int64_t numel = c10::multiply_integers(sizes);
  codes_ = at::full({numel}, zero_code(map), options.dtype(at::kByte));
  absmax_ = at::zeros({blocks_of(numel)}, options.dtype(at::kFloat));
}

at::Tensor Int8State::dequantize() const {
  check_on_cpu(codes_);
  at::Tensor out = at::empty(sizes_, absmax_.options());
  float* to = out.mutable_data_ptr<float>();
  for_block_ranges(numel(), [&](std::int64_t begin, std::int64_t count, std::int64_t block) {
    cpu::state_decode(map_, blocks_at(*this, begin, block), count, to + begin);
  });
  return out;
}

void Int8State::assign(const at::Tensor& value) {
  check_on_cpu(codes_);
  KUMIKO_EXPECTS(value.scalar_type() == at::kFloat && value.sizes() == sizes(), ShapeError,
                 "an 8-bit state of fp32", sizes(), " cannot take ", value.scalar_type(), value.sizes());
  const at::Tensor flat = value.detach().contiguous();
  const float* from = flat.const_data_ptr<float>();
  for_block_ranges(numel(), [&](std::int64_t begin, std::int64_t count, std::int64_t block) {
    cpu::state_encode(map_, from + begin, count, blocks_at(*this, begin, block));
  });
}

std::int64_t Int8State::nbytes_for(std::int64_t numel) {
  constexpr std::int64_t kFp32Bytes = 4;
  return numel + blocks_of(numel) * kFp32Bytes;
}

void adam8bit_step(at::Tensor& value, const at::Tensor& grad, Int8State& first, Int8State& second,
                   const Adam8bitStep& step) {
  check_on_cpu(value);
  const std::int64_t numel = value.numel();
  check_plain("value", value, numel);
  check_plain("gradient", grad, numel);
  KUMIKO_EXPECTS(first.numel() == numel && second.numel() == numel, ShapeError,
                 "adam8bit_step needs moments of ", numel, " elements, got ", first.numel(), " and ",
                 second.numel());
  TORCH_INTERNAL_ASSERT(first.map() == Int8Map::with_sign && second.map() == Int8Map::without_sign);
  const AdamFactors factors = factors_of(step);
  float* to = value.mutable_data_ptr<float>();
  const float* from = grad.const_data_ptr<float>();
  for_block_ranges(numel, [&](std::int64_t begin, std::int64_t count, std::int64_t block) {
    cpu::adam8bit(factors, to + begin, from + begin, count, blocks_at(first, begin, block),
                  blocks_at(second, begin, block));
  });
}

}  // namespace kumiko::quant
