// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "framework/core/error.hpp"
#include "framework/core/format.hpp"
#include "tools/ablate/merge.hpp"
#include "tools/ablate/sweep.hpp"

namespace kumiko::tools {

void apply_point(ConfigTree& recipe, const std::vector<LrAxis>& axes, const LrPoint& point) {
  for (std::size_t i = 0; i < axes.size(); ++i)
    set_value(recipe, axes[i].key, axes[i].place, axes[i].values[point.index[i]]);
}

std::string describe_point(const std::vector<LrAxis>& axes, const LrPoint& point) {
  std::string text;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    text += concat(i == 0 ? "" : ", ", last_word_of(axes[i].key), " ", axes[i].values[point.index[i]].scalar);
  }
  return text;
}

std::vector<std::string> edges_of(const std::vector<LrAxis>& axes, const LrPoint& point) {
  std::vector<std::string> edges;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    if (axes[i].values.size() < 2) continue;
    std::vector<double> values;
    for (const ConfigTree& value : axes[i].values) values.push_back(parse_real(value.scalar).value());
    const auto [least, greatest] = std::ranges::minmax(values);
    const double own = values[point.index[i]];
    if (own == least || own == greatest) edges.push_back(last_word_of(axes[i].key));
  }
  return edges;
}

}  // namespace kumiko::tools
