// SPDX-License-Identifier: Apache-2.0
#include "lowrank/rank_allocation.hpp"

#include <numeric>

#include <gtest/gtest.h>

namespace kumiko::lowrank {
namespace {

using Ranks = std::vector<std::int64_t>;

double captured(const std::vector<LayerSpectrum>& layers, const Ranks& ranks) {
  double sum = 0.0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    for (std::int64_t k = 0; k < ranks[i]; ++k) sum += layers[i].energies[static_cast<std::size_t>(k)] / layers[i].total;
  }
  return sum;
}

// Every allocation within the limits.
double best_of_all(const std::vector<LayerSpectrum>& layers, const RankLimits& limits, Ranks prefix = {}, std::int64_t spent = 0) {
  if (spent > limits.budget) return -1.0;
  if (prefix.size() == layers.size()) return captured(layers, prefix);
  const LayerSpectrum& layer = layers[prefix.size()];
  double best = -1.0;
  for (std::int64_t rank = limits.min; rank <= std::min(limits.max, static_cast<std::int64_t>(layer.energies.size())); ++rank) {
    Ranks longer = prefix;
    longer.push_back(rank);
    best = std::max(best, best_of_all(layers, limits, longer, spent + rank * layer.cost));
  }
  return best;
}

TEST(RankAllocation, GivesMoreToAFlatterSpectrum) {
  const std::vector<LayerSpectrum> layers = {{{8.0, 1.0, 0.5, 0.5}, 10.0, 1}, {{2.5, 2.5, 2.5, 2.5}, 10.0, 1}};
  EXPECT_EQ(allocate_ranks(layers, {1, 4, 5}), (Ranks{1, 4}));
}

TEST(RankAllocation, CapturesTheMostThatTheBudgetAllowsAtEqualCosts) {
  const std::vector<LayerSpectrum> layers = {
      {{5.0, 2.0, 1.0, 0.2}, 9.0, 1}, {{3.0, 2.9, 0.1, 0.1}, 6.1, 1}, {{1.0, 0.9, 0.8, 0.7}, 4.0, 1}};
  for (std::int64_t budget = 3; budget <= 12; ++budget) {
    const RankLimits limits{1, 4, budget};
    const Ranks ranks = allocate_ranks(layers, limits);
    EXPECT_LE(std::accumulate(ranks.begin(), ranks.end(), std::int64_t{0}), budget);
    EXPECT_NEAR(captured(layers, ranks), best_of_all(layers, limits), 1e-12) << budget;
  }
}

TEST(RankAllocation, WeighsGainsByTheirCost) {
  const std::vector<LayerSpectrum> layers = {{{4.0, 4.0}, 10.0, 3}, {{3.0, 3.0}, 10.0, 1}};
  EXPECT_EQ(allocate_ranks(layers, {0, 2, 4}), (Ranks{0, 2}));   // what is left does not pay for the first layer's
}

TEST(RankAllocation, KeepsToItsLimits) {
  const std::vector<LayerSpectrum> layers = {{{4.0, 1.0, 1.0}, 6.0, 2}, {{0.0, 0.0}, 0.0, 1}};
  EXPECT_EQ(allocate_ranks(layers, {2, 8, 0}), (Ranks{2, 2}));     // the minimum, whatever the budget
  EXPECT_EQ(allocate_ranks(layers, {1, 2, 100}), (Ranks{2, 2}));
  EXPECT_EQ(allocate_ranks(layers, {1, 8, 100}), (Ranks{3, 2}));   // no more than a layer has
  EXPECT_EQ(allocate_ranks({}, {1, 8, 100}), Ranks{});
}

}  // namespace
}  // namespace kumiko::lowrank
