// SPDX-License-Identifier: Apache-2.0
#include "framework/core/memory_counter.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

class MemoryCounter : public ::testing::Test {
 protected:
  void SetUp() override {
    memory_counter::install();
    memory_counter::reset_peak();
    before_ = memory_counter::current_bytes();
    allocations_before_ = memory_counter::allocations();
  }

  std::int64_t used() const { return memory_counter::current_bytes() - before_; }
  std::int64_t peak() const { return memory_counter::peak_bytes() - before_; }
  std::int64_t made() const { return memory_counter::allocations() - allocations_before_; }

  std::int64_t before_ = 0;
  std::int64_t allocations_before_ = 0;
};

TEST_F(MemoryCounter, CountsTensorsToTheByte) {
  {
    const at::Tensor a = at::empty({1000}, at::kFloat);
    EXPECT_EQ(used(), 4000);
    const at::Tensor b = at::empty({7}, at::kByte);
    EXPECT_EQ(used(), 4007);
    const at::Tensor view = a.slice(0, 10, 20);
    EXPECT_EQ(used(), 4007);
    const at::Tensor copy = view.clone();
    EXPECT_EQ(used(), 4047);
    EXPECT_EQ(made(), 3);
  }

  EXPECT_EQ(used(), 0);
  EXPECT_EQ(peak(), 4047);
}

TEST_F(MemoryCounter, CountsNothingForEmptyTensors) {
  const at::Tensor a = at::empty({0}, at::kFloat);

  EXPECT_EQ(used(), 0);
  EXPECT_EQ(made(), 0);
}

TEST_F(MemoryCounter, FollowsResize) {
  at::Tensor a = at::arange(100, at::kFloat);
  const std::int64_t at_first = used();

  a.resize_({1000});

  EXPECT_EQ(at_first, 400);
  EXPECT_EQ(used(), 4000);
  EXPECT_EQ(peak(), 4400);
  EXPECT_EQ(a[99].item<float>(), 99.0F);
  a.resize_({10});
  EXPECT_EQ(used(), 4000);
}

TEST_F(MemoryCounter, PeakIsThatSinceTheReset) {
  { const at::Tensor a = at::empty({1 << 20}, at::kByte); }
  EXPECT_EQ(peak(), 1 << 20);

  memory_counter::reset_peak();
  { const at::Tensor b = at::empty({100}, at::kByte); }

  EXPECT_EQ(peak(), 100);
}

TEST_F(MemoryCounter, InstallingTwiceCountsOnce) {
  memory_counter::install();

  const at::Tensor a = at::empty({64}, at::kByte);

  EXPECT_EQ(used(), 64);
}

TEST_F(MemoryCounter, IsExactWithSeveralThreads) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 2000;
  std::vector<at::Tensor> kept(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) kept[t] = at::empty({1 + (i * 37 + t) % 5000}, at::kByte);
    });
  }
  for (auto& thread : threads) thread.join();

  std::int64_t expected = 0;
  for (const at::Tensor& tensor : kept) expected += tensor.numel();
  EXPECT_EQ(used(), expected);
  EXPECT_EQ(made(), kThreads * kRounds);
  EXPECT_GE(peak(), expected);
  EXPECT_LE(peak(), kThreads * 2 * 5000);
  kept.clear();
  EXPECT_EQ(used(), 0);
}

TEST_F(MemoryCounter, FreesOnAnotherThreadThanItAllocated) {
  auto tensor = std::make_unique<at::Tensor>(at::empty({12345}, at::kByte));

  std::thread([&] { tensor.reset(); }).join();

  EXPECT_EQ(used(), 0);
}

TEST_F(MemoryCounter, KeepsBlocksAligned) {
  for (std::int64_t bytes = 1; bytes < 300; bytes += 7) {
    const at::Tensor a = at::empty({bytes}, at::kByte);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data_ptr()) % 64, 0U) << bytes;
  }
}

TEST_F(MemoryCounter, ComputesAsBefore) {
  const at::Tensor a = at::arange(64 * 64, at::kFloat).reshape({64, 64});

  const at::Tensor product = at::matmul(a, at::eye(64));

  EXPECT_TRUE(at::equal(product, a));
}

TEST_F(MemoryCounter, SaysWhatDidNotFit) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer's allocator ends the process instead of failing";
#endif
  try {
    at::empty({std::int64_t{1} << 60}, at::kByte);
    FAIL() << "an exbibyte was allocated";
  } catch (const OutOfMemoryError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("cannot allocate 1 EiB of memory beside the "))
        << error.what();
  }
  EXPECT_EQ(used(), 0);
}

TEST(ResidentBytes, GrowWithTouchedMemory) {
  const std::int64_t before = memory_counter::resident_bytes();
  constexpr std::int64_t kBytes = 1LL << 28;
  const at::Tensor a = at::ones({kBytes}, at::kByte);

  EXPECT_GT(before, 1 << 20);
  EXPECT_GE(memory_counter::resident_bytes(), before + kBytes * 9 / 10);
  EXPECT_GE(memory_counter::peak_resident_bytes(), memory_counter::resident_bytes());
}

}  // namespace
}  // namespace kumiko
