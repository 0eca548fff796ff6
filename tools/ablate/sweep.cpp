// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/sweep.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/core/format.hpp"
#include "framework/core/words.hpp"
#include "tools/ablate/merge.hpp"

namespace kumiko::tools {
namespace {

using Kind = ConfigTree::Kind;
using Keys = std::map<std::string, ConfigPlace>;  // swept keys

constexpr std::size_t kMaxRuns = 10000;
constexpr std::array<std::string_view, 9> kSweepKeys = {
    "base", "recipe", "variants", "axes", "lr_sweep", "seeds", "baseline", "selection", "output_dir"};

// One value of an axis and the word that stands for it in names.
struct AxisValue {
  std::string word;
  ConfigTree value;
};

struct Axis {
  std::string key;
  ConfigPlace place;
  std::vector<AxisValue> values;
};

[[noreturn]] void fail(const ConfigPlace& place, const std::string& message) {
  throw UsageError(place.text() + ": " + message);
}

// Names become folders.
void check_name(const std::string& name, const ConfigPlace& place) {
  const bool fit = !name.empty() && name.size() <= 200 && name.front() != '.' && name.front() != '-' &&
                   std::ranges::all_of(name, [](unsigned char c) {
                     return std::isalnum(c) ||
                            std::string_view("._+-").find(static_cast<char>(c)) != std::string_view::npos;
                   });
  if (!fit)
    fail(place,
         concat("the name '", name, "' cannot be a folder's; use letters, digits, '_', '-', '+' and '.'"));
}

const ConfigTree& mapping(const ConfigTree& value, const std::string& what) {
  if (value.kind != Kind::mapping)
    fail(value.place, concat(what, ": found ", value.describe(), ", needed a mapping"));
  return value;
}

ConfigTree read_recipe(const ConfigTree& file, const std::filesystem::path& folder) {
  if (file.kind != Kind::scalar)
    fail(file.place, concat("base: found ", file.describe(), ", needed a recipe file"));
  const std::filesystem::path path = (folder / file.scalar).lexically_normal();
  std::ifstream in(path, std::ios::binary);
  if (!in || std::filesystem::is_directory(path))
    fail(file.place, concat("base: there is no recipe '", path.string(),
                            "'; it is looked for relative to the sweep file"));
  std::string text(kConfigMaxBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  return parse_config_tree(text, path.string());
}

std::vector<LrAxis> read_lr_sweep(const ConfigTree& tree) {
  std::vector<LrAxis> axes;
  for (const auto& member : mapping(tree, "lr_sweep").members) {
    LrAxis axis{member.key, member.place, {}};
    if (member.value.kind != Kind::sequence || member.value.items.empty()) {
      fail(member.value.place, concat("lr_sweep.", member.key, ": found ", member.value.describe(),
                                      ", needed a sequence of numbers"));
    }
    std::set<double> seen;
    for (const ConfigTree& item : member.value.items) {
      const auto number = item.kind == Kind::scalar && !item.quoted ? parse_real(item.scalar) : std::nullopt;
      if (!number)
        fail(item.place, concat("lr_sweep.", member.key, ": found ", item.describe(), ", needed a number"));
      if (!seen.insert(*number).second)
        fail(item.place, concat("lr_sweep.", member.key, ": ", item.scalar, " is there twice"));
      axis.values.push_back(item);
    }
    axes.push_back(std::move(axis));
  }
  return axes;
}

std::vector<Axis> read_axes(const ConfigTree& tree) {
  std::vector<Axis> axes;
  for (const auto& member : mapping(tree, "axes").members) {
    Axis axis{member.key, member.place, {}};
    if (member.value.kind == Kind::sequence) {
      for (const ConfigTree& item : member.value.items) {
        if (item.kind != Kind::scalar) {
          fail(item.place,
               concat("axes.", member.key, ": found ", item.describe(),
                      ", needed one value; give others a name: {", member.key, ": {name: value}}"));
        }
        axis.values.push_back({last_word_of(member.key) + "-" + item.scalar, item});
      }
    } else if (member.value.kind == Kind::mapping) {
      for (const auto& named : member.value.members) axis.values.push_back({named.key, named.value});
    }
    if (axis.values.empty()) {
      fail(member.value.place, concat("axes.", member.key, ": found ", member.value.describe(),
                                      ", needed a sequence of values, or names with values"));
    }
    axes.push_back(std::move(axis));
  }
  return axes;
}

// All ways to take one of each: the last turns fastest.
std::vector<std::vector<std::size_t>> product(const std::vector<std::size_t>& sizes,
                                              const ConfigPlace& place) {
  std::vector<std::vector<std::size_t>> all = {{}};
  for (const std::size_t size : sizes) {
    std::vector<std::vector<std::size_t>> next;
    for (const auto& head : all) {
      for (std::size_t i = 0; i < size; ++i) {
        next.push_back(head);
        next.back().push_back(i);
      }
    }
    all = std::move(next);
    if (all.size() > kMaxRuns) fail(place, concat("more than ", kMaxRuns, " combinations; leave some out"));
  }
  return all;
}

std::vector<LrPoint> points_of(const std::vector<LrAxis>& axes, const ConfigPlace& place) {
  std::vector<std::size_t> sizes;
  std::set<std::string> words;
  bool clear = true;
  for (const LrAxis& axis : axes) {
    sizes.push_back(axis.values.size());
    clear = words.insert(last_word_of(axis.key)).second && clear;
  }
  std::vector<LrPoint> points;
  for (auto& index : product(sizes, place)) {
    LrPoint point{"", std::move(index)};
    for (std::size_t i = 0; i < axes.size(); ++i) {
      const LrAxis& axis = axes[i];
      point.name += concat(i == 0 ? "" : "_", clear ? last_word_of(axis.key) : axis.key, "-",
                           axis.values[point.index[i]].scalar);
    }
    if (axes.empty()) point.name = "fixed";
    points.push_back(std::move(point));
  }
  return points;
}

// What belongs to the workbench inside a variant is taken out of it.
struct VariantBlock {
  std::string name;
  ConfigPlace place;
  ConfigTree changes;
  std::optional<ConfigTree> base;
  std::vector<Axis> axes;
  std::vector<LrAxis> lr_sweep;
};

VariantBlock read_variant(const ConfigTree::Member& member, const std::vector<Axis>& axes,
                          const std::vector<LrAxis>& lr_sweep) {
  VariantBlock block{member.key,   member.place, {.kind = Kind::mapping, .place = member.value.place},
                     std::nullopt, axes,         lr_sweep};
  if (member.value.kind == Kind::null) return block;
  for (const auto& item : mapping(member.value, "variants." + member.key).members) {
    if (item.key == "base") {
      block.base = item.value;
    } else if (item.key == "axes") {
      block.axes = read_axes(item.value);
    } else if (item.key == "lr_sweep") {
      block.lr_sweep = read_lr_sweep(item.value);
    } else {
      block.changes.members.push_back(item);
    }
  }
  return block;
}

class Reader {
 public:
  Reader(const std::filesystem::path& file, std::span<const std::string> overrides);
  Sweep read();

 private:
  void expand(const VariantBlock& block);
  void check_overrides(const VariantBlock& block) const;
  ConfigTree recipe_of(const VariantBlock& block) const;

  std::filesystem::path file_;
  std::vector<std::string> recipe_overrides_;
  std::vector<std::string> sweep_overrides_;
  std::optional<ConfigTree> base_, recipe_;
  std::map<std::string, ConfigPlace> names_;
  Sweep sweep_;
};

Reader::Reader(const std::filesystem::path& file, std::span<const std::string> overrides) : file_(file) {
  for (const std::string& text : overrides) {
    const std::string first = text.substr(0, text.find_first_of(".="));
    (std::ranges::find(kSweepKeys, first) != kSweepKeys.end() ? sweep_overrides_ : recipe_overrides_)
        .push_back(text);
  }
}

ConfigTree Reader::recipe_of(const VariantBlock& block) const {
  ConfigTree recipe{.kind = Kind::mapping, .place = block.place};
  if (block.base || base_) recipe = read_recipe(block.base ? *block.base : *base_, file_.parent_path());
  if (recipe_) merge_recipe(recipe, *recipe_);
  merge_recipe(recipe, block.changes);
  return recipe;
}

// An override wins over the variant's values; over swept ones it would make all points the same.
void Reader::check_overrides(const VariantBlock& block) const {
  const auto refuse = [&](const std::string& key, const char* what) {
    for (const std::string& text : recipe_overrides_) {
      const std::string changed = text.substr(0, text.find('='));
      KUMIKO_EXPECTS(changed != key && !key.starts_with(changed + ".") && !changed.starts_with(key + "."),
                     UsageError, "override '", text, "' changes what ", what, " of variant '", block.name,
                     "' varies; change the sweep file instead");
    }
  };
  for (const Axis& axis : block.axes) refuse(axis.key, "an axis");
  for (const LrAxis& axis : block.lr_sweep) refuse(axis.key, "the lr_sweep");
  refuse("train.seed", "the list of seeds");
}

void Reader::expand(const VariantBlock& block) {
  check_overrides(block);
  std::vector<std::size_t> sizes;
  for (const Axis& axis : block.axes) sizes.push_back(axis.values.size());
  for (const auto& index : product(sizes, block.place)) {
    Variant variant{block.name, block.place, recipe_of(block), block.lr_sweep,
                    points_of(block.lr_sweep, block.place)};
    for (std::size_t i = 0; i < block.axes.size(); ++i) {
      const Axis& axis = block.axes[i];
      const AxisValue& chosen = axis.values[index[i]];
      variant.name += (variant.name.empty() ? "" : "_") + chosen.word;
      set_value(variant.recipe, axis.key, axis.place, chosen.value);
    }
    for (const std::string& text : recipe_overrides_) apply_override(variant.recipe, text);
    check_name(variant.name, block.place);
    const auto [before, fresh] = names_.emplace(variant.name, block.place);
    if (!fresh)
      fail(block.place,
           concat("two variants are named '", variant.name, "', the other at ", before->second.text()));
    for (const LrPoint& point : variant.points) check_name(point.name, block.place);
    sweep_.variants.push_back(std::move(variant));
  }
}

Sweep Reader::read() {
  const ConfigNode node = ConfigNode::parse_file(file_, sweep_overrides_);
  const auto optional_tree = [&](std::string_view key) {
    const ConfigTree* tree = node.tree(key);
    return tree == nullptr ? std::nullopt : std::optional<ConfigTree>(*tree);
  };
  std::ostringstream text;
  text << std::ifstream(file_, std::ios::binary).rdbuf();
  sweep_.file = file_;
  sweep_.text = text.str();
  base_ = optional_tree("base");
  recipe_ = optional_tree("recipe");
  if (recipe_) mapping(*recipe_, "recipe");
  const auto variants = optional_tree("variants");
  const auto axes_tree = optional_tree("axes");
  const auto lr_tree = optional_tree("lr_sweep");
  sweep_.seeds = node.integers("seeds", {1, 2, 3}, {0, std::int64_t{1} << 40});
  if (sweep_.seeds.empty()) node.fail("seeds", "names no seed");
  if (std::set(sweep_.seeds.begin(), sweep_.seeds.end()).size() != sweep_.seeds.size())
    node.fail("seeds", "has the same seed twice");
  sweep_.selection = node.text("selection", "");
  sweep_.output_dir =
      node.text("output_dir", (std::filesystem::path("runs/ablations") / file_.stem()).string());
  const std::string baseline = node.text("baseline", "");
  node.finish();

  const auto axes = axes_tree ? read_axes(*axes_tree) : std::vector<Axis>{};
  const auto lr_sweep = lr_tree ? read_lr_sweep(*lr_tree) : std::vector<LrAxis>{};
  if (!variants && axes.empty()) node.fail("", "nothing to compare: give variants, axes or both");
  if (variants) {
    for (const auto& member : mapping(*variants, "variants").members)
      expand(read_variant(member, axes, lr_sweep));
    if (sweep_.variants.empty()) node.fail("variants", "names no variant");
  } else {
    expand({"", axes.front().place, {.kind = Kind::mapping}, std::nullopt, axes, lr_sweep});
  }
  sweep_.baseline = baseline.empty() ? sweep_.variants.front().name : baseline;
  if (!names_.contains(sweep_.baseline)) {
    std::vector<std::string> known;
    for (const Variant& variant : sweep_.variants) known.push_back(variant.name);
    const auto near = nearest_word(baseline, known);
    node.fail("baseline", concat("no variant is named '", baseline, "'; ",
                                 near ? "did you mean '" + *near + "'? " : "", "known: ", join_words(known)));
  }
  return std::move(sweep_);
}

}  // namespace

bool Sweep::has_lr_sweep() const {
  return std::ranges::any_of(variants, [](const Variant& variant) { return variant.points.size() > 1; });
}

Sweep Sweep::parse_file(const std::filesystem::path& file, std::span<const std::string> overrides) {
  Sweep sweep = Reader(file, overrides).read();
  if (!overrides.empty() && !sweep.text.ends_with('\n')) sweep.text += '\n';
  for (std::string line : overrides) {
    std::ranges::replace_if(line, [](char c) { return c == '\n' || c == '\r'; }, ' ');
    sweep.text += "# override: " + line + "\n";
  }
  return sweep;
}

}  // namespace kumiko::tools
