// SPDX-License-Identifier: Apache-2.0
// What becomes of an optimizer's moments when the basis they are in changes.
#pragma once

#include <string>

#include "framework/model/optimizer.hpp"
#include "lowrank/projector.hpp"

namespace kumiko {
class ConfigNode;
}

namespace kumiko::lowrank {

enum class Moments { keep, reset, rotate };

Moments parse_moments(const ConfigNode& node, Moments fallback);  // key `moments`

// Along the rank dimension of a parameter of Projector::factor_sizes: m <- R m, v <- (R o R) v with R =
// P_new^T P_old, [r, r]. old_basis, new_basis: [dim, r], fp32.
void rotate_moments(Optimizer& optimizer, const std::string& param_name, Side side,
                    const at::Tensor& old_basis, const at::Tensor& new_basis);

}  // namespace kumiko::lowrank
