// SPDX-License-Identifier: Apache-2.0
// Every file in recipes/ is a recipe, and what a run writes as its resolved recipe is the same recipe. Those in recipes/ablations
// are sweeps, which sweeps_test reads.
#include <filesystem>

#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tools/assemble.hpp"
#include "tools/auto_prepare.hpp"

namespace kumiko::tools {
namespace {

std::vector<std::filesystem::path> recipes() {
  std::vector<std::filesystem::path> files;
  for (const auto& item : std::filesystem::recursive_directory_iterator(KUMIKO_RECIPES)) {
    if (item.is_regular_file() && item.path().parent_path().filename() != "ablations") files.push_back(item.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Reads it as `kumiko train` does, up to the model; the resolved text.
std::string resolved(const ConfigNode& node) {
  Recipe recipe = Recipe::parse(node);
  const auto prepare = AutoPrepare::parse(node.child("data"));
  recipe.validate(1);
  const std::int64_t data_vocabulary = prepare ? prepare->vocab_size : 2048;
  const Assembly assembly(std::move(recipe), data_vocabulary, 2);
  EXPECT_GE(assembly.recipe.model.vocab_size, data_vocabulary);
  EXPECT_TRUE(assembly.method);
  return assembly.recipe.node.to_yaml();
}

TEST(Recipes, AreAllYamlFilesAndSomeAreThere) {
  const auto files = recipes();
  EXPECT_GE(files.size(), 2u);
  for (const auto& file : files) EXPECT_EQ(file.extension(), ".yaml") << file;
}

TEST(Recipes, LoadWithEveryKeyKnownAndEveryValueInRange) {
  for (const auto& file : recipes()) {
    SCOPED_TRACE(file);
    EXPECT_NO_THROW(resolved(ConfigNode::parse_file(file)));
  }
}

TEST(Recipes, AreTheSameAfterResolving) {
  for (const auto& file : recipes()) {
    SCOPED_TRACE(file);
    const std::string once = resolved(ConfigNode::parse_file(file));
    EXPECT_EQ(resolved(ConfigNode::parse_text(once, "resolved")), once);
    EXPECT_NE(once.find("max_non_finite_steps"), std::string::npos) << "defaults are written out";
  }
}

TEST(Recipes, WriteToFoldersOfTheirOwn) {
  std::map<std::filesystem::path, std::filesystem::path> owners;
  for (const auto& file : recipes()) {
    const Recipe recipe = Recipe::parse(ConfigNode::parse_file(file));
    const auto [entry, fresh] = owners.emplace(recipe.output_dir, file);
    EXPECT_TRUE(fresh) << file << " and " << entry->second << " both write to " << recipe.output_dir;
    EXPECT_TRUE(recipe.output_dir.is_relative()) << file;
  }
}

}  // namespace
}  // namespace kumiko::tools
