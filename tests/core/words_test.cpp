// SPDX-License-Identifier: Apache-2.0
#include "framework/core/words.hpp"

#include <gtest/gtest.h>

namespace kumiko {
namespace {

TEST(EditDistance, CountsInsertionsDeletionsSubstitutionsAndSwaps) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("rank", "rank"), 0U);
  EXPECT_EQ(edit_distance("", "rank"), 4U);
  EXPECT_EQ(edit_distance("rank", "rnak"), 1U);
  EXPECT_EQ(edit_distance("rank", "ranks"), 1U);
  EXPECT_EQ(edit_distance("rank", "rak"), 1U);
  EXPECT_EQ(edit_distance("rank", "bank"), 1U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("ca", "abc"), 3U);
}

TEST(NearestWord, TakesTheNearestAndTheFirstOfEquals) {
  const std::vector<std::string> known = {"warmup_steps", "kind", "steps", "rank"};

  EXPECT_EQ(nearest_word("warmupsteps", known), "warmup_steps");
  EXPECT_EQ(nearest_word("rnk", known), "rank");
  EXPECT_EQ(nearest_word("rind", known), "kind");
  EXPECT_EQ(nearest_word("step", known), "steps");
  EXPECT_EQ(nearest_word("colour", known), std::nullopt);
  EXPECT_EQ(nearest_word("rk", known), std::nullopt);
  EXPECT_EQ(nearest_word("x", std::vector<std::string>{"y"}), std::nullopt);
  EXPECT_EQ(nearest_word(std::string(1000, 'a'), std::vector<std::string>{std::string(1000, 'a')}),
            std::nullopt);
}

TEST(JoinWords, PutsCommasBetween) {
  EXPECT_EQ(join_words(std::vector<std::string>{"a", "b"}), "a, b");
  EXPECT_EQ(join_words({}), "");
}

}  // namespace
}  // namespace kumiko
