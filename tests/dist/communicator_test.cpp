// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "dist/thread_group.hpp"
#include "tests/dist/communicator_suite.hpp"

namespace kumiko::dist {
namespace {

Kind solo() {
  return {"solo", [](const auto& body) { body(*make_solo()); }};
}

Kind threads(int size) {
  return {"threads_" + std::to_string(size), [size](const auto& body) { run_thread_group(size, body); }};
}

INSTANTIATE_TEST_SUITE_P(Local, Communicators,
                         testing::Values(solo(), threads(1), threads(2), threads(3), threads(4), threads(6),
                                         threads(8)),
                         [](const auto& info) { return info.param.name; });

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const PeerError& error) {
    EXPECT_EQ(error.code(), ExitCode::peer);
    return error.what();
  }
  return "";
}

TEST(ThreadGroup, TimesOutOnARankThatDoesNotCome) {
  const auto start = std::chrono::steady_clock::now();
  const std::string message = message_of([] {
    run_thread_group(2, {.timeout_seconds = 0.2}, [](Communicator& comm) {
      if (comm.rank() == 1) return std::this_thread::sleep_for(std::chrono::milliseconds(600));
      comm.all_reduce(at::ones({10}), ReduceOp::sum)->wait();
    });
  });
  EXPECT_THAT(message, testing::StartsWith("rank 0 waited 0.2 s for rank 1 in all_reduce 1 (10 x Float)"));
  EXPECT_THAT(message, testing::HasSubstr("comm.timeout_seconds"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(ThreadGroup, RethrowsTheFirstErrorAndReleasesTheOthers) {
  EXPECT_THROW(run_thread_group(4,
                                [](Communicator& comm) {
                                  if (comm.rank() == 2) throw DataError("shard 3 is damaged");
                                  comm.barrier();
                                }),
               DataError);
}

TEST(ThreadGroup, NoticesARankThatHasEnded) {
  const std::string message = message_of([] {
    run_thread_group(2, [](Communicator& comm) {
      if (comm.rank() == 0) comm.barrier();
    });
  });
  EXPECT_THAT(message, testing::StartsWith("rank 0 lost rank 1 in barrier 1: it has ended"));
}

TEST(ThreadGroup, NoticesRanksThatRunDifferentCollectives) {
  const std::string message = message_of([] {
    run_thread_group(
        2, [](Communicator& comm) { comm.all_reduce(at::ones({comm.rank() + 1}), ReduceOp::sum)->wait(); });
  });
  EXPECT_THAT(message, testing::HasSubstr("the ranks run different collectives"));
}

TEST(ThreadGroup, FailsEveryLaterCollectiveAfterAnError) {
  run_thread_group(2, {.timeout_seconds = 0.1}, [](Communicator& comm) {
    if (comm.rank() == 1) return std::this_thread::sleep_for(std::chrono::milliseconds(400));
    EXPECT_THROW(comm.barrier(), PeerError);
    const auto start = std::chrono::steady_clock::now();
    EXPECT_THROW(comm.barrier(), PeerError);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(50));
  });
}

TEST(ThreadGroup, RefusesZeroRanks) {
  EXPECT_THROW(run_thread_group(0, [](Communicator&) {}), UsageError);
}

TEST(SoloDeathTest, AbortEndsWithTheCode) {
  EXPECT_EXIT(make_solo()->abort(6), testing::ExitedWithCode(6), "");
}

class LaunchedByMpi : public testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }
  static void clear() {
    unsetenv("OMPI_COMM_WORLD_SIZE");
    unsetenv("PMI_SIZE");
  }
};

TEST_F(LaunchedByMpi, NeedsMoreThanOneRank) {
  EXPECT_FALSE(launched_by_mpi());
  setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
  EXPECT_FALSE(launched_by_mpi());
  setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
  EXPECT_TRUE(launched_by_mpi());
  unsetenv("OMPI_COMM_WORLD_SIZE");
  setenv("PMI_SIZE", "4", 1);
  EXPECT_TRUE(launched_by_mpi());
}

}  // namespace
}  // namespace kumiko::dist
