// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "framework/core/state.hpp"

namespace kumiko {

// Dynamic loss scale for fp16 (Micikevicius et al. 2018): halves after a step with non-finite gradients, doubles after
// `kGrowthSteps` good ones. Disabled it is 1 and stays.
class LossScaler {
 public:
  explicit LossScaler(bool enabled) : enabled_(enabled), scale_(enabled ? kInitialScale : 1.0) {}

  bool enabled() const noexcept { return enabled_; }
  double scale() const noexcept { return scale_; }
  // Returns true where a non-finite step is explained by the scale, which was lowered: it is no sign of divergence.
  bool update(bool finite) noexcept;
  void save(StateWriter& out) const;
  void load(const StateReader& in);

 private:
  static constexpr double kInitialScale = 65536.0;
  static constexpr std::int64_t kGrowthSteps = 2000;
  bool enabled_;
  double scale_;
  std::int64_t good_steps_ = 0;
};

}  // namespace kumiko
