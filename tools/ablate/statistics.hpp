// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>

namespace kumiko::tools {

// Of a sample. What a sample of its size does not give is empty.
struct Estimate {
  int n = 0;
  double mean = 0.0;
  std::optional<double> standard_error;  // of the mean: s / sqrt(n)
  std::optional<double> half_width;      // of the mean's 95 % confidence interval by Student's t
};

Estimate estimate(std::span<const double> sample);

// The 97.5 % quantile of Student's t with `degrees` >= 1 of freedom, to about 1e-9.
double student_t_975(int degrees);

}  // namespace kumiko::tools
