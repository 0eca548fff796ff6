// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace kumiko::lowrank {

// What a layer's gradient holds along its leading directions.
struct LayerSpectrum {
  std::vector<double> energies;   // squared singular values, descending
  double total = 0.0;             // of the whole gradient, or of its sketch
  std::int64_t cost = 1;          // factor elements of one rank
};

struct RankLimits {
  std::int64_t min = 1;
  std::int64_t max = 1;
  std::int64_t budget = 0;        // factor elements of all layers together
};

// Ranks, at most as many as a layer has energies, that capture the largest sum over layers of captured / total while the sum of
// rank * cost stays within the budget. Greedy by gain per element: energies descend, so only the last direction may be lost to the
// budget's rounding. Layers without energy take what is left. The minimum holds even where it exceeds the budget.
std::vector<std::int64_t> allocate_ranks(const std::vector<LayerSpectrum>& layers, const RankLimits& limits);

}  // namespace kumiko::lowrank
