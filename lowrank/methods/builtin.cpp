// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/builtin.hpp"

#include "lowrank/methods/full.hpp"
#include "lowrank/methods/loqt.hpp"

namespace kumiko::lowrank {

void register_builtin_methods(MethodRegistry& registry) {
  registry.add("full", [](const MethodContext& context) { return std::make_unique<FullMethod>(context); });
  registry.add("loqt", [](const MethodContext& context) { return std::make_unique<LoqtMethod>(context, true); });
  registry.add("loqt_nq", [](const MethodContext& context) { return std::make_unique<LoqtMethod>(context, false); });
}

}  // namespace kumiko::lowrank
