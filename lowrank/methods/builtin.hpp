// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/method.hpp"

namespace kumiko::lowrank {

void register_builtin_methods(MethodRegistry& registry);

}  // namespace kumiko::lowrank
