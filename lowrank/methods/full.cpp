// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/full.hpp"

namespace kumiko::lowrank {

void FullMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  for (const auto& spec : model.linear_specs()) plan_dense(spec, plan);
}

}  // namespace kumiko::lowrank
