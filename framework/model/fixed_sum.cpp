// SPDX-License-Identifier: Apache-2.0
#include "framework/model/fixed_sum.hpp"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace kumiko {
namespace {

constexpr std::int64_t kChunk = 8192;
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kTile = 6;   // rows at once: with kLanes columns as many sums as registers hold

using Lanes = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

struct Matrix {
  const float* data;
  std::int64_t row_stride, column_stride;
  float at(std::int64_t row, std::int64_t column) const { return data[row * row_stride + column * column_stride]; }
};

double sum_of_squares(const float* values, std::int64_t count) {
  double lanes[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int k = 0; k < 8; ++k) lanes[k] += static_cast<double>(values[i + k]) * values[i + k];
  }
  for (; i < count; ++i) lanes[0] += static_cast<double>(values[i]) * values[i];
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KUMIKO_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define KUMIKO_EACH_PROCESSOR
#endif

// `columns` columns of out (stride `out_stride`) = beta out + alpha a b. a [rows, inner]; b [inner, kLanes].
KUMIKO_EACH_PROCESSOR
void multiply_panel(const float* a, const float* b, float* out, std::int64_t rows, std::int64_t inner, std::int64_t out_stride,
                    std::int64_t columns, float beta, float alpha) {
  for (std::int64_t row = 0; row < rows; row += kTile) {
    const std::int64_t count = std::min(kTile, rows - row);
    const float* left[kTile];
    for (std::int64_t i = 0; i < kTile; ++i) left[i] = a + (row + std::min(i, count - 1)) * inner;
    Lanes s0{}, s1{}, s2{}, s3{}, s4{}, s5{};
    for (std::int64_t k = 0; k < inner; ++k) {
      const Lanes right = *reinterpret_cast<const Lanes*>(b + k * kLanes);
      s0 += left[0][k] * right;
      s1 += left[1][k] * right;
      s2 += left[2][k] * right;
      s3 += left[3][k] * right;
      s4 += left[4][k] * right;
      s5 += left[5][k] * right;
    }
    const Lanes sums[kTile] = {s0, s1, s2, s3, s4, s5};
    for (std::int64_t i = 0; i < count; ++i) {
      float* to = out + (row + i) * out_stride;
      for (std::int64_t j = 0; j < columns; ++j) to[j] = beta == 0.0F ? alpha * sums[i][j] : beta * to[j] + alpha * sums[i][j];
    }
  }
}

}  // namespace

double sum_of_squares(const at::Tensor& values) {
  if (!values.is_cpu()) return at::linalg_vector_norm(values.to(at::kDouble)).square().item<double>();
  const std::int64_t count = values.numel();
  const auto* data = values.const_data_ptr<float>();
  std::vector<double> chunks(static_cast<std::size_t>((count + kChunk - 1) / kChunk));
  at::parallel_for(0, static_cast<std::int64_t>(chunks.size()), 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      chunks[static_cast<std::size_t>(i)] = sum_of_squares(data + i * kChunk, std::min(kChunk, count - i * kChunk));
    }
  });
  double sum = 0.0;
  for (const double chunk : chunks) sum += chunk;
  return sum;
}

void multiply_add(at::Tensor& out, const at::Tensor& a, const at::Tensor& b, double beta, double alpha) {
  if (out.scalar_type() != at::kFloat || !out.is_cpu()) {
    out.addmm_(a, b, beta, alpha);
    return;
  }
  const std::int64_t rows = out.size(0), inner = a.size(1), columns = out.size(1);
  const at::Tensor left = a.contiguous();
  const Matrix right{b.const_data_ptr<float>(), b.stride(0), b.stride(1)};
  at::parallel_for(0, (columns + kLanes - 1) / kLanes, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> packed(static_cast<std::size_t>(inner * kLanes));
    for (std::int64_t panel = begin; panel < end; ++panel) {
      const std::int64_t first = panel * kLanes, count = std::min(kLanes, columns - first);
      for (std::int64_t k = 0; k < inner; ++k) {
        for (std::int64_t j = 0; j < kLanes; ++j) packed[static_cast<std::size_t>(k * kLanes + j)] = j < count ? right.at(k, first + j) : 0.0F;
      }
      multiply_panel(left.const_data_ptr<float>(), packed.data(), out.data_ptr<float>() + first, rows, inner, columns, count,
                     static_cast<float>(beta), static_cast<float>(alpha));
    }
  });
}

}  // namespace kumiko
