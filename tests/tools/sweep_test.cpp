// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/sweep.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/support/files.hpp"
#include "tests/support/temp_folder.hpp"
#include "tools/ablate/merge.hpp"

namespace kumiko::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SweepFile : public ::testing::Test {
 protected:
  Sweep parse(const std::string& text, std::vector<std::string> overrides = {}) const {
    test::write_text(folder_ / "sweep.yaml", text);
    return Sweep::parse_file(folder_ / "sweep.yaml", overrides);
  }
  std::string error_of(const std::string& text, std::vector<std::string> overrides = {}) const {
    try {
      parse(text, std::move(overrides));
    } catch (const UsageError& error) {
      return error.what();
    }
    return "no error";
  }
  static std::string value(const Variant& variant, const std::string& key) {
    const ConfigTree* found = find_value(variant.recipe, key);
    return found == nullptr ? "absent" : to_flow_yaml(*found);
  }
  static std::vector<std::string> names(const Sweep& sweep) {
    std::vector<std::string> names;
    for (const auto& variant : sweep.variants) names.push_back(variant.name);
    return names;
  }
  const test::TempFolder folder_;
};

TEST_F(SweepFile, LaysVariantsOverTheBase) {
  test::write_text(
      folder_ / "recipes/base.yaml",
      "method: {name: loqt, rank: 8, schedule: {kind: static, tau: 9}}\ntrain: {steps: 5, seed: 3}\n");
  test::write_text(folder_ / "other.yaml", "method: {name: lora}\n");
  const Sweep sweep = parse(R"(
base: recipes/base.yaml
recipe: {train: {steps: 7}}
variants:
  same:
  joined: {method: {rank: 16, schedule: {tau: 4}}, train.steps: 8}
  scheduled: {method: {schedule: {kind: linear, increment: 2}}}
  replaced: {method: {name: full}}
  removed: {method.rank: null, train: {batch: null}}
  elsewhere: {base: other.yaml}
)",
                            {"train.clip=1.0"});
  EXPECT_THAT(names(sweep), ElementsAre("same", "joined", "scheduled", "replaced", "removed", "elsewhere"));
  EXPECT_EQ(value(sweep.variants[0], "method"), "{name: loqt, rank: 8, schedule: {kind: static, tau: 9}}");
  EXPECT_EQ(value(sweep.variants[0], "train"), "{steps: 7, seed: 3, clip: 1.0}");
  EXPECT_EQ(value(sweep.variants[1], "method"), "{name: loqt, rank: 16, schedule: {kind: static, tau: 4}}");
  EXPECT_EQ(value(sweep.variants[1], "train.steps"), "8");
  EXPECT_EQ(value(sweep.variants[2], "method"), "{name: loqt, rank: 8, schedule: {kind: linear, increment: 2}}");
  EXPECT_EQ(value(sweep.variants[3], "method"), "{name: full}");
  EXPECT_EQ(value(sweep.variants[4], "method.rank"), "absent");
  EXPECT_EQ(value(sweep.variants[4], "train.batch"), "null")
      << "a removal of what is not there must be refused as an unknown key";
  EXPECT_EQ(value(sweep.variants[5], "method"), "{name: lora}");
  EXPECT_EQ(sweep.baseline, "same");
  EXPECT_THAT(sweep.seeds, ElementsAre(1, 2, 3));
}

TEST_F(SweepFile, MultipliesAxesAndLearningRates) {
  const Sweep sweep = parse(R"(
recipe: {train: {steps: 7}}
variants:
  loqt: {method.name: loqt}
  full: {axes: {}, lr_sweep: {}, method.name: full}
axes:
  method.rank: [64, 128]
  method.schedule: {slow: {tau: 100}, fast: {tau: 10}}
lr_sweep: {optimizer.lr: [0.001, 0.01, 0.1], optimizer.lr_scale.matrices: [0.5, 1.0]}
seeds: [4]
baseline: full
)",
                            {"seeds=[7, 8]", "output_dir=elsewhere"});
  EXPECT_THAT(names(sweep), ElementsAre("loqt_rank-64_slow", "loqt_rank-64_fast", "loqt_rank-128_slow",
                                        "loqt_rank-128_fast", "full"));
  EXPECT_EQ(value(sweep.variants[3], "method"), "{name: loqt, rank: 128, schedule: {tau: 10}}");
  EXPECT_EQ(sweep.output_dir, "elsewhere");
  EXPECT_THAT(sweep.text, ::testing::EndsWith("baseline: full\n# override: seeds=[7, 8]\n# override: output_dir=elsewhere\n"));
  EXPECT_THAT(sweep.seeds, ElementsAre(7, 8));
  EXPECT_EQ(sweep.variants[4].points.size(), 1U);
  const Variant& loqt = sweep.variants[0];
  ASSERT_EQ(loqt.points.size(), 6U);
  EXPECT_EQ(loqt.points[3].name, "lr-0.01_matrices-1.0");
  EXPECT_EQ(describe_point(loqt.lr_sweep, loqt.points[3]), "lr 0.01, matrices 1.0");
  EXPECT_THAT(edges_of(loqt.lr_sweep, loqt.points[3]), ElementsAre("matrices"))
      << "0.01 lies within, 1.0 is the greatest";
  EXPECT_THAT(edges_of(loqt.lr_sweep, loqt.points[0]), ElementsAre("lr", "matrices"));
  EXPECT_TRUE(edges_of(sweep.variants[4].lr_sweep, sweep.variants[4].points[0]).empty());
  ConfigTree recipe = loqt.recipe;
  apply_point(recipe, loqt.lr_sweep, loqt.points[3]);
  EXPECT_EQ(to_flow_yaml(*find_value(recipe, "optimizer")), "{lr: 0.01, lr_scale: {matrices: 1.0}}");
}

TEST_F(SweepFile, WithASlipIsRefusedAtItsPlace) {
  struct Slip {
    const char* text;
    std::vector<std::string> overrides;
    std::vector<std::string> words;
  };
  const std::string at = (folder_ / "sweep.yaml").string() + ":";
  const std::vector<Slip> slips = {
      {"variants: {a: {}}\nbasline: a\n", {}, {at + "2:1: basline: unknown key; did you mean 'baseline'?"}},
      {"variants: {a: {}, a: {x: 1}}\n", {}, {at + "1:19", "a"}},
      {"axes: {m.rank: [1, 1]}\n", {}, {at + "1:8: two variants are named 'rank-1'"}},
      {"variants: {a: {}, b: {}}\nbaseline: c\n",
       {},
       {at + "2:11: baseline: no variant is named 'c'", "known: a, b"}},
      {"variants: {../a: {}}\n", {}, {at + "1:12: the name '../a' cannot be a folder's"}},
      {"base: none.yaml\nvariants: {a: {}}\n",
       {},
       {at + "1:7: base: there is no recipe", "none.yaml", "relative to the sweep file"}},
      {"seeds: [1, 1]\nvariants: {a: {}}\n", {}, {at + "1:8: seeds: has the same seed twice"}},
      {"seeds: [1]\n", {}, {"nothing to compare: give variants, axes or both"}},
      {"recipe: {m: 3}\nvariants: {a: {m.x: 1}}\n", {}, {at + "2:16: m is '3', not a mapping"}},
      {"variants: {a: {m.x: 1, m: {x: 2}}}\n", {}, {at + "1:28: m.x is given twice", at + "1:16"}},
      {"variants: {a: {}}\nlr_sweep: {optimizer.lr: [0.1, fast]}\n",
       {},
       {at + "2:32: lr_sweep.optimizer.lr: found 'fast', needed a number"}},
      {"variants: {a: {}}\nlr_sweep: {optimizer.lr: [0.1]}\n",
       {"optimizer.lr=3"},
       {"override 'optimizer.lr=3'", "lr_sweep of variant 'a'"}},
      {"variants: {a: {}}\n", {"train.seed=3"}, {"override 'train.seed=3'", "list of seeds"}},
      {"axes: {m.kind: [[1]]}\n",
       {},
       {at + "1:17: axes.m.kind: found a sequence, needed one value", "give others a name"}},
  };
  for (const Slip& slip : slips) {
    const std::string error = error_of(slip.text, slip.overrides);
    for (const auto& word : slip.words) EXPECT_THAT(error, HasSubstr(word)) << slip.text;
  }
}

}  // namespace
}  // namespace kumiko::tools
