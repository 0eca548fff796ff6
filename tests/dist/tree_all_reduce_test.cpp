// SPDX-License-Identifier: Apache-2.0
#include "dist/tree_all_reduce.hpp"

#include <thread>

#include <gtest/gtest.h>

#include "dist/pipelined_broadcast.hpp"
#include "framework/core/error.hpp"

namespace kumiko::dist {
namespace {

// Counts what one rank of a group sends and answers with zeros, so that the cost of an algorithm shows
// without its peers.
class CountingChannel final : public PointToPoint {
 public:
  CountingChannel(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  void exchange(int, std::span<const std::byte> out, int, std::span<std::byte> in) override {
    sent_bytes += static_cast<std::int64_t>(out.size());
    received_bytes += static_cast<std::int64_t>(in.size());
    messages += out.empty() ? 0 : 1;
    std::fill(in.begin(), in.end(), std::byte{0});
  }
  std::int64_t sent_bytes = 0;
  std::int64_t received_bytes = 0;
  std::int64_t messages = 0;

 private:
  int rank_;
  int size_;
};

TEST(TreeAllReduce, SendsTwiceTheShareOfTheOthers) {
  constexpr std::int64_t kCount = 1 << 20;
  for (const int size : {2, 4, 8}) {
    for (int rank = 0; rank < size; ++rank) {
      CountingChannel channel(rank, size);
      at::Tensor tensor = at::ones({kCount}, at::kFloat);
      tree_all_reduce(channel, tensor, ReduceOp::sum, Wire::native);
      EXPECT_EQ(channel.sent_bytes, 2 * (size - 1) * kCount * 4 / size);
      EXPECT_EQ(channel.received_bytes, channel.sent_bytes);
    }
  }
}

TEST(TreeAllReduce, HalvesTheBytesOfTwoRanksWithTheBf16Wire) {
  constexpr std::int64_t kCount = 1 << 20;
  CountingChannel channel(0, 2);
  at::Tensor tensor = at::ones({kCount}, at::kFloat);
  tree_all_reduce(channel, tensor, ReduceOp::sum, Wire::bf16);
  EXPECT_EQ(channel.sent_bytes, kCount * 2);
}

TEST(TreeAllReduce, SendsOneMessageALevelForASmallTensor) {
  CountingChannel channel(3, 8);
  at::Tensor tensor = at::ones({1024}, at::kFloat);
  tree_all_reduce(channel, tensor, ReduceOp::sum, Wire::native);
  EXPECT_EQ(channel.messages, 3);
}

TEST(TreeAllReduce, RefusesOtherDtypes) {
  CountingChannel channel(0, 2);
  at::Tensor tensor = at::ones({4}, at::kBool);
  EXPECT_THROW(tree_all_reduce(channel, tensor, ReduceOp::sum, Wire::native), ShapeError);
}

TEST(PipelinedBroadcast, SendsTheBytesAtMostOnceWhenTheyAreMany) {
  for (int rank = 0; rank < 5; ++rank) {
    CountingChannel channel(rank, 5);
    std::vector<std::byte> bytes(5 << 20);
    pipelined_broadcast(channel, bytes, 2);
    EXPECT_EQ(channel.sent_bytes, rank == 1 ? 0 : 5 << 20);
    EXPECT_EQ(channel.received_bytes, rank == 2 ? 0 : 5 << 20);
  }
}

}  // namespace
}  // namespace kumiko::dist
