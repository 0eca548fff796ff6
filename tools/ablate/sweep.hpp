// SPDX-License-Identifier: Apache-2.0
// A sweep file: what 'kumiko ablate' shall run.
//
//   base: paper/60m_loqt.yaml          a recipe, relative to the sweep file; a variant may have its own
//   recipe: {train: {steps: 400}}      changes of it; enough without a base
//   variants:                          name: changes (merge.hpp says how they are laid over); besides `base`,
//   `axes`, `lr_sweep`
//     loqt: {}
//     full: {method: {name: full}, optimizer.lr: 0.001}
//   axes: {method.rank: [64, 128]}     cartesian, with each variant; or name: value pairs: {method.schedule:
//   {slow: {...}}} lr_sweep: {optimizer.lr: [0.001, 0.01]} seeds: [1, 2, 3] baseline: full default: the first
//   variant selection: shards/select-*.h5      default: beside data.train output_dir: runs/table1 default:
//   runs/ablations/NAME of the file
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "framework/core/config_tree.hpp"

namespace kumiko::tools {

// One key of a learning-rate sweep with its values in the order written.
struct LrAxis {
  std::string key;
  ConfigPlace place;
  std::vector<ConfigTree> values;  // numbers
};

// One choice of values, an index into each axis.
struct LrPoint {
  std::string name;  // of its folder: "lr-0.01_matrices-0.5"; "fixed" without a sweep
  std::vector<std::size_t> index;
};

struct Variant {
  std::string name;
  ConfigPlace place;
  ConfigTree recipe;  // with the variant's changes; without seed, learning-rate point, folder
  std::vector<LrAxis> lr_sweep;
  std::vector<LrPoint> points;  // one at least
};

struct Sweep {
  std::filesystem::path file;
  std::string text;  // the file as it is, and the overrides as comments behind it
  std::vector<Variant> variants;
  std::vector<std::int64_t> seeds;
  std::string baseline;
  std::string selection;  // a pattern; "": select-*.h5 beside data.train
  std::filesystem::path output_dir;

  bool has_lr_sweep() const;

  // Overrides "a.b=value" change every recipe, or the sweep itself where `a` is one of its keys. Throws
  // UsageError with file, line and column. Looks at no recipe key: the recipes are checked when they are
  // read.
  static Sweep parse_file(const std::filesystem::path& file, std::span<const std::string> overrides = {});
};

// The point's values laid over a recipe.
void apply_point(ConfigTree& recipe, const std::vector<LrAxis>& axes, const LrPoint& point);

// "lr 0.01, matrices 0.5"; "" without a sweep.
std::string describe_point(const std::vector<LrAxis>& axes, const LrPoint& point);

// Keys for which the point has the least or the greatest of several values: a better one may lie outside.
std::vector<std::string> edges_of(const std::vector<LrAxis>& axes, const LrPoint& point);

}  // namespace kumiko::tools
