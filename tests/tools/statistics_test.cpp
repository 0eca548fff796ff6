// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/statistics.hpp"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace kumiko::tools {
namespace {

TEST(StudentT, IsThatOfPrintedTables) {
  const std::vector<std::pair<int, double>> table = {{1, 12.7062047},  {2, 4.30265273},   {3, 3.18244631},
                                                     {4, 2.77644511},  {5, 2.57058184},   {9, 2.26215716},
                                                     {30, 2.04227246}, {1000, 1.96233908}};
  for (const auto& [degrees, quantile] : table)
    EXPECT_NEAR(student_t_975(degrees), quantile, 1e-7) << degrees;
}

TEST(Estimate, GivesMeanStandardErrorAndInterval) {
  const Estimate result = estimate(std::vector<double>{1, 2, 3, 4});
  EXPECT_EQ(result.n, 4);
  EXPECT_DOUBLE_EQ(result.mean, 2.5);
  EXPECT_NEAR(result.standard_error.value(), 0.6454972244, 1e-9);  // sqrt(5/3)/2
  EXPECT_NEAR(result.half_width.value(), 3.18244631 * 0.6454972244, 1e-7);
}

TEST(Estimate, OfOneOrNoneClaimsNothingAboutTheSpread) {
  EXPECT_EQ(estimate({}).n, 0);
  const Estimate one = estimate(std::vector<double>{7.0});
  EXPECT_EQ(one.mean, 7.0);
  EXPECT_FALSE(one.standard_error || one.half_width);
}

}  // namespace
}  // namespace kumiko::tools
