// SPDX-License-Identifier: Apache-2.0
#include "lowrank/moments.hpp"

#include <array>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"

namespace kumiko::lowrank {

Moments parse_moments(const ConfigNode& node, Moments fallback) {
  constexpr std::array<std::pair<std::string_view, Moments>, 3> kMoments = {
      {{"keep", Moments::keep}, {"reset", Moments::reset}, {"rotate", Moments::rotate}}};
  return node.choice("moments", fallback, kMoments);
}

void rotate_moments(Optimizer& optimizer, const std::string& param_name, Side side,
                    const at::Tensor& old_basis, const at::Tensor& new_basis) {
  const at::Tensor rotation = at::mm(new_basis.t(), old_basis);
  optimizer.transform(param_name, [&](const at::Tensor& moment, int power) {
    const at::Tensor map = power == 2 ? rotation.square() : rotation;
    return side == Side::input ? at::mm(map, moment) : at::mm(moment, map.t());
  });
}

}  // namespace kumiko::lowrank
