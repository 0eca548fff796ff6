// SPDX-License-Identifier: Apache-2.0
#include "lowrank/refresh.hpp"

#include <array>
#include <numeric>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko::lowrank {
namespace {

constexpr std::int64_t kMaxStride = std::int64_t{1} << 40;

}  // namespace

RefreshOptions RefreshOptions::parse(const ConfigNode& node, RefreshKind fallback) {
  constexpr std::array<std::pair<std::string_view, RefreshKind>, 2> kKinds = {
      {{"all", RefreshKind::all}, {"lazy", RefreshKind::lazy}}};
  RefreshOptions options;
  options.kind = node.choice("kind", fallback, kKinds);
  if (options.kind == RefreshKind::all) return options;
  options.similarity = node.real("similarity", options.similarity, {0.0, 1.0});
  options.window = node.integer("window", options.window, {1, 1000});
  options.growth = node.integer("growth", options.growth, {2, 1000});
  return options;
}

void LayerRefresh::observe(double similarity) {
  if (options_.kind == RefreshKind::all) return;
  const auto window = static_cast<std::size_t>(options_.window);
  if (similarities_.size() == window) similarities_.erase(similarities_.begin());
  similarities_.push_back(similarity);
  const double sum = std::accumulate(similarities_.begin(), similarities_.end(), 0.0);
  const bool steady =
      similarities_.size() == window && sum / static_cast<double>(window) >= options_.similarity;
  if (steady && stride_ <= kMaxStride / options_.growth) stride_ *= options_.growth;
}

void LayerRefresh::save(StateWriter& out) const {
  out.integer("stride", stride_);
  out.tensor("similarities", at::tensor(similarities_, at::kDouble));
}

void LayerRefresh::load(const StateReader& in) {
  stride_ = in.integer("stride");
  const at::Tensor stored = in.tensor("similarities").contiguous();
  KUMIKO_EXPECTS(stride_ >= 1 && stride_ <= kMaxStride && stored.scalar_type() == at::kDouble &&
                     stored.dim() == 1 && stored.numel() <= options_.window,
                 CheckpointError, "a layer's refreshes have stride ", stride_, " and ", stored.numel(),
                 " similarities in the checkpoint; refresh.window keeps ", options_.window,
                 ": take an older checkpoint or the recipe it was made with");
  const auto* values = stored.const_data_ptr<double>();
  similarities_.assign(values, values + stored.numel());
}

}  // namespace kumiko::lowrank
