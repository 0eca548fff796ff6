// SPDX-License-Identifier: Apache-2.0
#include "framework/train/flops.hpp"

#include <algorithm>
#include <chrono>

#include <ATen/ATen.h>

namespace kumiko {

double measure_matmul_rate(c10::ScalarType dtype) {
  constexpr std::int64_t kSize = 1024;
  const at::Tensor a = at::ones({kSize, kSize}, dtype);
  const at::Tensor b = at::ones({kSize, kSize}, dtype);
  using Clock = std::chrono::steady_clock;
  at::mm(a, b);
  double best = 0.0;
  const auto end = Clock::now() + std::chrono::milliseconds(300);
  do {
    const auto begin = Clock::now();
    at::mm(a, b);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, 2.0 * kSize * kSize * kSize / std::max(seconds, 1e-9));
  } while (Clock::now() < end);
  return best;
}

}  // namespace kumiko
