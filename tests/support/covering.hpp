// SPDX-License-Identifier: Apache-2.0
// Rows of a few factors such that every pair of their values that may go together stands in some row (pairwise testing).
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace kumiko::test {

struct CoveredFactor {
  std::string name;
  std::vector<std::string> values;
};

// Values chosen so far by factor; a factor that is missing has none yet.
using CoveringRow = std::map<std::string, std::string>;
// Whether a part of a row can be completed to one that is wanted.
using CoveringRule = std::function<bool(const CoveringRow& part)>;

class Covering {
 public:
  Covering(std::vector<CoveredFactor> factors, CoveringRule allowed) : factors_(std::move(factors)), allowed_(std::move(allowed)) {
    for (std::size_t a = 0; a < factors_.size(); ++a) {
      for (std::size_t b = a + 1; b < factors_.size(); ++b) {
        for (const auto& x : factors_[a].values) {
          for (const auto& y : factors_[b].values) {
            CoveringRow pair = {{factors_[a].name, x}, {factors_[b].name, y}};
            if (allowed_(pair)) open_.insert(pair);
          }
        }
      }
    }
    pairs_ = open_.size();
    while (!open_.empty()) add_row();
  }

  const std::vector<CoveringRow>& rows() const noexcept { return rows_; }
  std::size_t pairs() const noexcept { return pairs_; }
  std::size_t unreachable() const noexcept { return unreachable_; }   // pairs that no complete row can hold

 private:
  // How many open pairs a value would close beside those chosen.
  std::size_t gain(const CoveringRow& row, const std::string& name, const std::string& value) const {
    std::size_t count = 0;
    for (const auto& [other, chosen] : row) count += open_.contains({{name, value}, {other, chosen}}) ? 1U : 0U;
    return count;
  }

  // Chooses the values of the factors left, the most gainful first; goes back where none is allowed.
  bool complete(CoveringRow& row, std::size_t next) const {
    while (next < factors_.size() && row.contains(factors_[next].name)) ++next;
    if (next == factors_.size()) return true;
    const CoveredFactor& factor = factors_[next];
    std::vector<std::pair<std::size_t, std::size_t>> order;
    for (std::size_t i = 0; i < factor.values.size(); ++i) {
      // Of equal gains another one first in each row.
      order.emplace_back(gain(row, factor.name, factor.values[i]), (i + rows_.size()) % factor.values.size());
    }
    std::vector<std::size_t> indices(order.size());
    for (std::size_t i = 0; i < indices.size(); ++i) indices[i] = i;
    std::sort(indices.begin(), indices.end(), [&](std::size_t a, std::size_t b) { return order[a] > order[b]; });
    for (const std::size_t i : indices) {
      row[factor.name] = factor.values[i];
      if (allowed_(row) && complete(row, next + 1)) return true;
      row.erase(factor.name);
    }
    return false;
  }

  void add_row() {
    CoveringRow row = *open_.begin();
    if (!complete(row, 0)) {
      open_.erase(open_.begin());
      ++unreachable_;
      return;
    }
    for (auto a = row.begin(); a != row.end(); ++a) {
      for (auto b = std::next(a); b != row.end(); ++b) open_.erase({*a, *b});
    }
    rows_.push_back(std::move(row));
  }

  std::vector<CoveredFactor> factors_;
  CoveringRule allowed_;
  std::set<CoveringRow> open_;   // pairs that no row holds yet
  std::size_t pairs_ = 0, unreachable_ = 0;
  std::vector<CoveringRow> rows_;
};

}  // namespace kumiko::test
