// SPDX-License-Identifier: Apache-2.0
#include "lowrank/refresh.hpp"

#include <array>
#include <cmath>
#include <numeric>
#include <span>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko::lowrank {
namespace {

constexpr std::int64_t kMaxStride = std::int64_t{1} << 40;

}  // namespace

RefreshOptions RefreshOptions::parse(const ConfigNode& node, RefreshKind fallback, bool has_bias) {
  constexpr std::array<std::pair<std::string_view, RefreshKind>, 3> kKinds = {
      {{"all", RefreshKind::all}, {"lazy", RefreshKind::lazy}, {"bias", RefreshKind::bias}}};
  RefreshOptions options;
  options.kind = node.choice("kind", fallback, std::span(kKinds).first(has_bias ? 3 : 2));
  if (options.kind == RefreshKind::bias) options.bias = node.real("bias", options.bias, {0.0, 1.0});
  if (options.kind != RefreshKind::lazy) return options;
  options.similarity = node.real("similarity", options.similarity, {0.0, 1.0});
  options.window = node.integer("window", options.window, {1, 1000});
  options.growth = node.integer("growth", options.growth, {2, 1000});
  return options;
}

double first_similarity(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor u = a.select(1, 0).to(at::kDouble);
  const at::Tensor v = b.select(1, 0).to(at::kDouble);
  const double norms = at::norm(u).item<double>() * at::norm(v).item<double>();
  return norms > 0.0 ? std::abs(at::dot(u, v).item<double>()) / norms : 0.0;
}

void LayerRefresh::observe(double similarity) {
  if (options_.kind != RefreshKind::lazy) return;
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
