// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/statistics.hpp"

#include <cmath>
#include <numbers>

namespace kumiko::tools {
namespace {

// P(T <= t) for t >= 0, by the closed sums of Abramowitz and Stegun 26.7.3 and 26.7.4.
double student_t_cdf(double t, int degrees) {
  const double theta = std::atan(t / std::sqrt(degrees));
  const double cosine = std::cos(theta);
  const bool odd = degrees % 2 == 1;
  double term = odd ? cosine : 1.0;
  double sum = degrees == 1 ? 0.0 : term;
  for (int k = odd ? 2 : 1; k + 2 < degrees + 1; k += 2) {
    term *= cosine * cosine * k / (k + 1);
    sum += term;
  }
  const double inside =
      odd ? 2.0 / std::numbers::pi * (theta + std::sin(theta) * sum) : std::sin(theta) * sum;
  return 0.5 + 0.5 * inside;
}

}  // namespace

double student_t_975(int degrees) {
  double low = 0.0;
  double high = 13.0;
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (low + high);
    (student_t_cdf(middle, degrees) < 0.975 ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

Estimate estimate(std::span<const double> sample) {
  Estimate result;
  result.n = static_cast<int>(sample.size());
  if (sample.empty()) return result;
  for (const double value : sample) result.mean += value / static_cast<double>(sample.size());
  if (sample.size() < 2) return result;
  double squares = 0.0;
  for (const double value : sample) squares += (value - result.mean) * (value - result.mean);
  result.standard_error = std::sqrt(squares / (result.n - 1) / result.n);
  result.half_width = student_t_975(result.n - 1) * *result.standard_error;
  return result;
}

}  // namespace kumiko::tools
