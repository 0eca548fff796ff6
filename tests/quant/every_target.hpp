// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include "tests/quant/quant_test_support.hpp"

namespace kumiko::quant::test {

// Runs with every instruction set that this machine has and that was compiled for.
class EveryTarget : public testing::TestWithParam<std::int64_t> {
 protected:
  void TearDown() override { force(0); }

  // 0: all of the machine's.
  static void force(std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

inline auto every_target() { return testing::ValuesIn(hwy::SupportedAndGeneratedTargets()); }

inline std::string target_name(const testing::TestParamInfo<std::int64_t>& param_info) {
  return hwy::TargetName(param_info.param);
}

// Bit for bit, but for the payload of NaN.
inline bool same_numbers(const at::Tensor& a, const at::Tensor& b) {
  return a.isnan().equal(b.isnan()) &&
         same_bits(a.nan_to_num(7, INFINITY, -INFINITY), b.nan_to_num(7, INFINITY, -INFINITY));
}

}  // namespace kumiko::quant::test
