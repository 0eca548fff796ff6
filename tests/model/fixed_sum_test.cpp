// SPDX-License-Identifier: Apache-2.0
#include "framework/model/fixed_sum.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/support/numeric.hpp"

namespace kumiko {
namespace {

using test::random_normal;

TEST(FixedSum, IsTheSumOfSquaresInDouble) {
  for (const std::int64_t count : {1, 7, 8, 8191, 8193, 100003}) {
    const at::Tensor values = random_normal({count}, 3);
    const double expected = values.to(at::kDouble).square().sum().item<double>();
    EXPECT_NEAR(sum_of_squares(values) / expected, 1.0, 1e-13) << count;
  }
}

TEST(FixedSum, MultipliesAndAddsInOneOrder) {
  const int threads = at::get_num_threads();
  for (const std::int64_t rows : {1, 5, 64, 131}) {
    const std::int64_t inner = 2 * rows + 7, columns = rows + 3;
    const at::Tensor a = random_normal({rows, inner}, 1), initial = random_normal({rows, columns}, 3);
    for (const at::Tensor& b : {random_normal({inner, columns}, 2), random_normal({columns, inner}, 4).t()}) {
      at::Tensor expected = at::zeros({rows, columns});   // one product after another, each rounded
      for (std::int64_t k = 0; k < inner; ++k) expected += a.narrow(1, k, 1).mul(b.narrow(0, k, 1));
      expected = initial.mul(0.5) + expected.mul(-2.0);
      for (const int count : {1, 2, 3}) {
        at::set_num_threads(count);
        at::Tensor out = initial.clone();
        multiply_add(out, a, b, 0.5, -2.0);
        EXPECT_TRUE(at::equal(out, expected)) << rows << " rows, " << count << " threads";
      }
    }
  }
  at::set_num_threads(threads);
}

}  // namespace
}  // namespace kumiko
