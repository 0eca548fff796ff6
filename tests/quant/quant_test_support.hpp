// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "framework/core/sha256.hpp"
#include "quant/quantized_tensor.hpp"

namespace kumiko::quant::test {

inline QuantFormat nf4(std::int64_t block_size, bool double_quant) {
  return {.codec = CodecKind::nf4, .block_size = block_size, .double_quant = double_quant};
}

inline std::string_view bytes_of(const at::Tensor& tensor) {
  return {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()};
}

inline std::string sha256_of(const at::Tensor& tensor) { return Sha256().update(bytes_of(tensor)).hex(); }

inline std::string hex_of(const at::Tensor& tensor) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes_of(tensor)) {
    text += kDigits[static_cast<unsigned char>(c) >> 4];
    text += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return text;
}

inline at::Tensor normal(at::IntArrayRef sizes, std::uint64_t seed) {
  return at::randn(sizes, at::detail::createCPUGenerator(seed), at::TensorOptions(at::kFloat));
}

// s0 = 12345, s = (1103515245 s + 12345) mod 2^31, x = s / 2^31 * 2 - 1.
inline at::Tensor lcg_values(std::int64_t n) {
  at::Tensor values = at::empty({n}, at::kFloat);
  std::uint64_t state = 12345;
  for (std::int64_t i = 0; i < n; ++i) {
    state = (1103515245ULL * state + 12345ULL) % (1ULL << 31);
    values.mutable_data_ptr<float>()[i] =
        static_cast<float>(static_cast<double>(state) / 2147483648.0 * 2.0 - 1.0);
  }
  return values;
}

// Bit for bit, NaN equal to itself.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && bytes_of(a) == bytes_of(b);
}

}  // namespace kumiko::quant::test
