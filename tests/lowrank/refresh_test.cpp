// SPDX-License-Identifier: Apache-2.0
#include "lowrank/refresh.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/support/memory_state.hpp"

namespace kumiko::lowrank {
namespace {

using ::testing::HasSubstr;

RefreshOptions parsed(const std::string& yaml) {
  const auto node = ConfigNode::parse_text(yaml, "r.yaml");
  const auto options = RefreshOptions::parse(node, RefreshKind::lazy);
  node.finish();
  return options;
}

std::vector<std::int64_t> due_of(const LayerRefresh& layer, std::int64_t count) {
  std::vector<std::int64_t> numbers;
  for (std::int64_t number = 0; number < count; ++number) {
    if (layer.due(number)) numbers.push_back(number);
  }
  return numbers;
}

TEST(RefreshOptions, HasTheDefaultsOfThePaper) {
  const RefreshOptions options = parsed("{}");
  EXPECT_EQ(options.kind, RefreshKind::lazy);
  EXPECT_EQ(options.similarity, 0.4);
  EXPECT_EQ(options.window, 5);
  EXPECT_EQ(options.growth, 2);
}

TEST(RefreshOptions, RefusesBadKeys) {
  const auto refusal = [](const std::string& yaml) {
    return test::message_of<UsageError>([&] { parsed(yaml); });
  };
  EXPECT_THAT(refusal("{kind: often}"), ::testing::AllOf(HasSubstr("kind"), HasSubstr("all")));
  EXPECT_THAT(refusal("{similarity: 1.5}"), HasSubstr("similarity"));
  EXPECT_THAT(refusal("{window: 0}"), HasSubstr("window"));
  EXPECT_THAT(refusal("{growth: 1}"), HasSubstr("growth"));
  EXPECT_THAT(refusal("{kind: all, window: 3}"), HasSubstr("window"));  // not a key of this kind
}

// Worked by hand: threshold 0.5, the last three.
TEST(LayerRefresh, GrowsItsStrideWhileTheMeanOfAFullWindowReachesTheThreshold) {
  LayerRefresh layer({RefreshKind::lazy, 0.5, 3, 2});
  const auto stride_after = [&layer](double similarity) {
    layer.observe(similarity);
    return layer.stride();
  };
  EXPECT_EQ(due_of(layer, 5), (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(stride_after(1.0), 1);
  EXPECT_EQ(stride_after(1.0), 1);   // the window is not full
  EXPECT_EQ(stride_after(-0.6), 1);  // mean 0.467
  EXPECT_EQ(stride_after(0.0), 1);   // 1, -0.6, 0
  EXPECT_EQ(stride_after(1.0), 1);   // -0.6, 0, 1
  EXPECT_EQ(stride_after(0.5), 2);   // 0, 1, 0.5: exactly the threshold
  EXPECT_EQ(due_of(layer, 7), (std::vector<std::int64_t>{0, 2, 4, 6}));
  EXPECT_EQ(stride_after(0.9), 4);  // the window goes on: 1, 0.5, 0.9
  EXPECT_EQ(due_of(layer, 9), (std::vector<std::int64_t>{0, 4, 8}));
  EXPECT_EQ(stride_after(0.0), 4);
}

TEST(LayerRefresh, OfAKindThatTakesAllIsAlwaysDue) {
  LayerRefresh layer({RefreshKind::all, 0.0, 1, 2});
  layer.observe(1.0);
  EXPECT_EQ(due_of(layer, 3), (std::vector<std::int64_t>{0, 1, 2}));
}

TEST(LayerRefresh, NeverOverflowsItsStride) {
  LayerRefresh layer({RefreshKind::lazy, 0.0, 1, 1000});
  for (int i = 0; i < 100; ++i) layer.observe(1.0);
  EXPECT_GT(layer.stride(), 1000000000);
  EXPECT_TRUE(layer.due(0));
}

TEST(LayerRefresh, GoesOnFromItsSavedState) {
  const RefreshOptions options{RefreshKind::lazy, 0.5, 3, 2};
  LayerRefresh whole(options);
  LayerRefresh resumed(options);
  for (const double similarity : {0.9, 0.9}) whole.observe(similarity);
  kumiko::test::MemoryState state;
  whole.save(state);
  resumed.load(state);
  for (LayerRefresh* layer : {&whole, &resumed}) layer->observe(0.0);
  EXPECT_EQ(whole.stride(), 2);
  EXPECT_EQ(resumed.stride(), 2);
  EXPECT_THROW(LayerRefresh({RefreshKind::lazy, 0.5, 1, 2}).load(state), CheckpointError);
  state.integers.at("stride") = 0;
  EXPECT_THROW(resumed.load(state), CheckpointError);
}

}  // namespace
}  // namespace kumiko::lowrank
