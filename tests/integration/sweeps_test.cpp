// SPDX-License-Identifier: Apache-2.0
// Every file in recipes/ablations is a sweep whose variants are recipes; each full one has a small one beside
// it.
#include <filesystem>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/ablate/plan.hpp"

namespace kumiko::tools {
namespace {

const std::filesystem::path kFolder = std::filesystem::path(KUMIKO_RECIPES) / "ablations";

std::set<std::string> names() {
  std::set<std::string> names;
  for (const auto& item : std::filesystem::directory_iterator(kFolder)) {
    EXPECT_EQ(item.path().extension(), ".yaml") << item.path();
    names.insert(item.path().stem().string());
  }
  return names;
}

Plan plan_of(const Sweep& sweep) {
  return make_plan(
      sweep, [](const ConfigNode&) { return 0; }, 1);
}

TEST(Ablations, ComeInFullAndSmall) {
  const auto all = names();
  for (const char* name : {"table1", "compensation", "schedule", "rank", "block_size", "codec",
                           "quantized_basis", "moments", "optimizer_on_b", "solver"}) {
    EXPECT_TRUE(all.contains(name) && all.contains(std::string(name) + "_smoke")) << name;
  }
  EXPECT_EQ(all.size(), 20U);
}

TEST(Ablations, ResolveInEveryVariantAndWriteToFoldersOfTheirOwn) {
  std::map<std::filesystem::path, std::string> owners;
  for (const auto& name : names()) {
    SCOPED_TRACE(name);
    const Sweep sweep = Sweep::parse_file(kFolder / (name + ".yaml"));
    const Plan plan = plan_of(sweep);
    EXPECT_GE(plan.variants.size(), 2U);
    EXPECT_TRUE(owners.emplace(sweep.output_dir, name).second) << sweep.output_dir;
    EXPECT_GE(sweep.seeds.size(), 2U) << "without seeds there is no interval";
  }
}

// The same question at another size: the same variants.
TEST(Ablations, AskTheSameInSmall) {
  for (const auto& name : names()) {
    if (!name.ends_with("_smoke")) continue;
    std::vector<std::string> full, small;
    for (const auto& variant :
         Sweep::parse_file(kFolder / (name.substr(0, name.size() - 6) + ".yaml")).variants)
      full.push_back(variant.name);
    for (const auto& variant : Sweep::parse_file(kFolder / (name + ".yaml")).variants)
      small.push_back(variant.name);
    EXPECT_EQ(small.size(), full.size()) << name;
    if (name == "rank_smoke") continue;   // its ranks are smaller
    EXPECT_THAT(small, ::testing::ElementsAreArray(full)) << name;
  }
}

}  // namespace
}  // namespace kumiko::tools
