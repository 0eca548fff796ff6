// SPDX-License-Identifier: Apache-2.0
#include "framework/train/loss_scaler.hpp"

namespace kumiko {

bool LossScaler::update(bool finite) noexcept {
  if (!enabled_) return false;
  if (finite) {
    if (++good_steps_ >= kGrowthSteps) {
      scale_ *= 2.0;
      good_steps_ = 0;
    }
    return false;
  }
  good_steps_ = 0;
  if (scale_ <= 1.0) return false;
  scale_ /= 2.0;
  return true;
}

void LossScaler::save(StateWriter& out) const {
  out.real("scale", scale_);
  out.integer("good_steps", good_steps_);
}

void LossScaler::load(const StateReader& in) {
  scale_ = in.real("scale");
  good_steps_ = in.integer("good_steps");
}

}  // namespace kumiko
