// SPDX-License-Identifier: Apache-2.0
#include "lowrank/rank_allocation.hpp"

#include <algorithm>
#include <queue>
#include <tuple>

namespace kumiko::lowrank {
namespace {

// The next direction of a layer: gain per element; of equal ones the lower rank, then the earlier layer.
struct Candidate {
  double gain;
  std::int64_t rank;
  std::size_t layer;

  bool operator<(const Candidate& other) const {
    return std::tie(gain, other.rank, other.layer) < std::tie(other.gain, rank, layer);
  }
};

Candidate next_of(const std::vector<LayerSpectrum>& layers, std::size_t index, std::int64_t rank) {
  const LayerSpectrum& layer = layers[index];
  const double energy = layer.energies[static_cast<std::size_t>(rank)];
  return {layer.total > 0.0 ? energy / layer.total / static_cast<double>(layer.cost) : 0.0, rank, index};
}

}  // namespace

std::vector<std::int64_t> allocate_ranks(const std::vector<LayerSpectrum>& layers, const RankLimits& limits) {
  std::vector<std::int64_t> ranks, most;
  std::int64_t left = limits.budget;
  for (const auto& layer : layers) {
    most.push_back(std::min(limits.max, static_cast<std::int64_t>(layer.energies.size())));
    ranks.push_back(std::min(limits.min, most.back()));
    left -= ranks.back() * layer.cost;
  }
  std::priority_queue<Candidate> candidates;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (ranks[i] < most[i]) candidates.push(next_of(layers, i, ranks[i]));
  }
  while (!candidates.empty()) {
    const std::size_t i = candidates.top().layer;
    candidates.pop();
    if (layers[i].cost > left) continue;
    left -= layers[i].cost;
    if (++ranks[i] < most[i]) candidates.push(next_of(layers, i, ranks[i]));
  }
  return ranks;
}

}  // namespace kumiko::lowrank
