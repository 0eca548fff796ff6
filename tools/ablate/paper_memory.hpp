// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "framework/model/memory_plan.hpp"
#include "framework/train/recipe.hpp"

namespace kumiko::tools {

// Bytes by the arithmetic of the papers' tables (GaLore's and LoQT's "memory estimate"): weights, basis,
// factors and optimizer states, without gradients and activations; what is dense at 2 bytes (bf16), a code at
// its bits and one fp32 scale a block (NF4 by 64: 0.5625 bytes), states at 2 bytes, those in 8 bits as they
// are. `plan` is the run's own: it tells how many elements each part has. `recipe` is resolved.
std::int64_t paper_bytes(const Recipe& recipe, const MemoryPlan& plan);

}  // namespace kumiko::tools
