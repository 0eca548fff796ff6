// SPDX-License-Identifier: Apache-2.0
// Which layers take part in a scheduled refresh of bases.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "framework/core/state.hpp"

namespace kumiko {
class ConfigNode;
}

namespace kumiko::lowrank {

enum class RefreshKind { all, lazy, bias };

// Block `refresh`: kind: all | lazy {similarity, window, growth} | bias {bias}, which not every method has.
struct RefreshOptions {
  RefreshKind kind = RefreshKind::all;  // every layer at every refresh
  double similarity = 0.4;
  std::int64_t window = 5;
  std::int64_t growth = 2;
  double bias = 0.2;   // a layer is left alone while its basis misses less than this share of what the new one captures

  static RefreshOptions parse(const ConfigNode& node, RefreshKind fallback, bool has_bias = false);
};

// |cos| of the first columns of two bases [dim, r]; 0 where one of them vanishes.
double first_similarity(const at::Tensor& a, const at::Tensor& b);

// One layer's share in the refreshes (Q-GaLore, arXiv 2407.08296, 3.2): where its basis hardly turns, it
// skips ever more of them. It refreshes at each stride-th of the schedule, and the stride grows by `growth`
// after each refresh at which the mean of the last `window` similarities reaches the threshold. With a static
// schedule that is a gap of tau * stride, due at its multiples, as in the published code.
class LayerRefresh {
 public:
  explicit LayerRefresh(const RefreshOptions& options) : options_(options) {}

  // `number`: of the scheduled refresh, from 0.
  bool due(std::int64_t number) const noexcept { return number % stride_ == 0; }
  // |cos| of the first vectors of the basis before and after a refresh: a singular vector has no sign.
  void observe(double similarity);
  std::int64_t stride() const noexcept { return stride_; }

  void save(StateWriter& out) const;
  void load(const StateReader& in);  // CheckpointError for state that no run writes

 private:
  RefreshOptions options_;
  std::int64_t stride_ = 1;
  std::vector<double> similarities_;  // at most `window`, oldest first
};

}  // namespace kumiko::lowrank
