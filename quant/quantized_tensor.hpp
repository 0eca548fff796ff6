// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "framework/core/state.hpp"
#include "quant/codec.hpp"
#include "quant/scale_codec.hpp"

namespace kumiko::quant {

// An owning, immutable tensor in a block format, of any sizes. Copies share storage, which storage() alone
// can change; quantizing again makes a new value. With codec `none` it keeps the dense tensor.
//
// NaN and infinities are no error: the block they are in decodes to numbers that are not finite, and with
// double quantization all blocks do, because the mean of the scales is lost. Double quantization also rounds
// a scale within 1 % of the largest fp32 number to infinity at times.
class QuantizedTensor {
 public:
  // Sizes [0], codec none.
  QuantizedTensor();

  // dense: fp32, bf16 or fp16, any strides; ShapeError for another dtype, UsageError for a bad block size.
  // dense_dtype: what codec `none` keeps it in, by default the dtype it has; ignored by the others.
  // stochastic_seed: of the two values of the format around x take the upper one with probability
  // (x - lower) / (upper - lower), so that the expectation is x (up to the error of doubled scales), by
  // random numbers that depend on the seed and the element's index only; without it the nearest. Codec `none`
  // rounds so from fp32 to bf16, and throws UsageError where the kept fp16 would need it.
  static QuantizedTensor quantize(const at::Tensor& dense, const QuantFormat& format,
                                  std::optional<at::ScalarType> dense_dtype = std::nullopt,
                                  std::optional<std::uint64_t> stochastic_seed = std::nullopt);

  // All zeros, to be received into through storage(). dense_dtype as in quantize.
  static QuantizedTensor empty(at::IntArrayRef sizes, const QuantFormat& format, at::ScalarType dense_dtype,
                               at::Device device);

  // With codec `none` and the dtype it is kept in, the result is the kept tensor itself: do not write to it.
  at::Tensor dequantize(at::ScalarType dtype) const;

  // out: contiguous fp32, bf16 or fp16 with as many elements, on the same device; ShapeError otherwise.
  void dequantize_into(at::Tensor& out) const;

  at::IntArrayRef sizes() const noexcept { return sizes_; }
  std::int64_t numel() const noexcept;
  at::Device device() const { return codes_.device(); }
  const QuantFormat& format() const noexcept { return format_; }

  std::int64_t nbytes() const;
  // nbytes() of a value of `numel` elements, without making one.
  static std::int64_t nbytes_for(std::int64_t numel, const QuantFormat& format, at::ScalarType dense_dtype);

  // All tensors that make up the value, contiguous, in a fixed order. Writing into them (a broadcast) changes
  // the value and its copies.
  std::vector<at::Tensor> storage() const;

  QuantizedTensor to(at::Device device) const;

  // Writes the format, the sizes and the parts below `name`/.
  void save(StateWriter& out, std::string_view name) const;
  // Throws CheckpointError for a part that is missing or does not fit the stored format and sizes.
  static QuantizedTensor load(const StateReader& in, std::string_view name, at::Device device = at::kCPU);
  // The same, and throws CheckpointError unless sizes, format and the dtype of a dense value are those of
  // this run.
  static QuantizedTensor load(const StateReader& in, std::string_view name, at::IntArrayRef sizes,
                              const QuantFormat& format, at::ScalarType dense_dtype,
                              at::Device device = at::kCPU);

 private:
  struct Part;
  bool is_dense() const noexcept { return format_.codec == CodecKind::none; }
  std::vector<Part> parts();

  std::vector<std::int64_t> sizes_;
  QuantFormat format_;
  at::Tensor codes_;  // packed codes [bytes], or the dense tensor
  Scales scales_;
};

}  // namespace kumiko::quant
