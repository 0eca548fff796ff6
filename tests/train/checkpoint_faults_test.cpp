// SPDX-License-Identifier: Apache-2.0
// The N-th file system call of a save fails or kills the process, N = 1, 2, 3 ... until a save passes whole.
#include <csignal>
#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "framework/train/checkpoint.hpp"
#include "tests/support/fault_shim.h"
#include "tests/support/temp_folder.hpp"
#include "tests/train/sample_state.hpp"

namespace kumiko {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using test::TempFolder;

constexpr int kExitSaved = 0;
constexpr int kExitNotSaved = 10;
constexpr int kExitNoFault = 11;
const CheckpointPolicy kPolicy{.keep = 2, .file_bytes = 8192};

void save_in_child(const std::filesystem::path& run, std::int64_t step, FaultKind kind, long at, bool stays) {
  CheckpointStore store(run, kPolicy);
  fault_arm(kind, at, stays ? 1 : 0);
  const SaveResult result = test::save_sample(store, step);
  const bool reached = fault_calls() >= at;
  fault_arm(fault_none, 0, 0);
  const bool told = result.saved ? result.problem.empty()
                                 : result.problem.find(run.string()) != std::string::npos &&
                                       result.problem.find("bytes") != std::string::npos;
  ::_exit(!told ? 12 : !reached ? kExitNoFault : result.saved ? kExitSaved : kExitNotSaved);
}

// How a child that saves `step` under a fault ended: its exit code, or -signal.
int save_under_fault(const std::filesystem::path& run, std::int64_t step, FaultKind kind, long at,
                     bool stays = false) {
  const pid_t child = ::fork();
  if (child == 0) {
    save_in_child(run, step, kind, at, stays);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

void prepare(const std::filesystem::path& run) {
  CheckpointStore store(run, kPolicy);
  ASSERT_TRUE(test::save_sample(store, 10).saved);
  ASSERT_TRUE(test::save_sample(store, 20).saved);
}

// Every published checkpoint holds its step's state; returns the newest step.
std::int64_t check_all(const std::filesystem::path& run) {
  const auto steps = checkpoint_steps(run);
  for (const std::int64_t step : steps) {
    EXPECT_EQ(test::differs_from_sample(CheckpointReader(checkpoint_folder(run, step)), step), "")
        << "step " << step;
  }
  const auto newest = newest_checkpoint(run, [](const std::string& text) { ADD_FAILURE() << text; });
  EXPECT_TRUE(newest);
  return newest ? newest->manifest().step : -1;
}

// A later run in the same folder saves as if nothing had been.
void check_goes_on(const std::filesystem::path& run) {
  CheckpointStore store(run, kPolicy);
  const SaveResult result = test::save_sample(store, 40);
  EXPECT_TRUE(result.saved) << result.problem;
  EXPECT_EQ(result.warning, "");
  EXPECT_EQ(test::names_in(run / "checkpoints").size(), 2u);
  EXPECT_EQ(check_all(run), 40);
}

struct Fault {
  const char* name;
  FaultKind kind;
  bool stays;
};

class SaveUnderFault : public ::testing::TestWithParam<Fault> {};

TEST_P(SaveUnderFault, LosesNothingAtAnyCall) {
  const Fault fault = GetParam();
  bool new_was_seen = false;
  bool old_was_seen = false;
  for (long at = 1;; ++at) {
    SCOPED_TRACE(at);
    ASSERT_LT(at, 500);
    TempFolder run;
    prepare(run.path());

    const int ended = save_under_fault(run.path(), 30, fault.kind, at, fault.stays);

    const std::int64_t newest = check_all(run.path());
    if (ended == kExitNoFault) {
      EXPECT_EQ(newest, 30);
      EXPECT_GT(at, 15);
      break;
    }
    (newest == 30 ? new_was_seen : old_was_seen) = true;
    if (fault.kind == fault_kill) {
      EXPECT_EQ(ended, -SIGKILL);
      EXPECT_TRUE(newest == 20 || newest == 30);
    } else {
      EXPECT_TRUE(ended == kExitSaved || ended == kExitNotSaved) << ended;
      EXPECT_EQ(newest, ended == kExitSaved ? 30 : 20);
    }
    if (fault.kind == fault_short || fault.kind == fault_eintr) {
      EXPECT_EQ(ended, kExitSaved);
    } else {
      EXPECT_GE(checkpoint_steps(run.path()).size(), 2u);
    }
    check_goes_on(run.path());
  }
  EXPECT_TRUE(new_was_seen);
  EXPECT_EQ(old_was_seen, fault.kind != fault_short && fault.kind != fault_eintr);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, SaveUnderFault,
    ::testing::Values(Fault{"Kill", fault_kill, false}, Fault{"DiskFull", fault_enospc, true},
                      Fault{"DiskFullOnce", fault_enospc, false}, Fault{"BrokenDisk", fault_eio, true},
                      Fault{"BrokenDiskOnce", fault_eio, false}, Fault{"ShortWrite", fault_short, false},
                      Fault{"Interrupted", fault_eintr, false}),
    [](const auto& info) { return info.param.name; });

TEST(SaveUnderFault, LosesNothingWhenTheFirstSaveOfARunIsKilled) {
  for (long at = 1;; ++at) {
    ASSERT_LT(at, 500);
    TempFolder run;

    const int ended = save_under_fault(run.path(), 10, fault_kill, at);

    if (ended == kExitNoFault) break;
    if (!checkpoint_steps(run.path()).empty()) {
      EXPECT_EQ(check_all(run.path()), 10);
    }
    CheckpointStore store(run.path(), kPolicy);
    EXPECT_TRUE(test::save_sample(store, 11).saved);
  }
}

TEST(SaveUnderFault, LosesNothingWhileADamagedOneOfItsStepIsReplaced) {
  for (long at = 1;; ++at) {
    SCOPED_TRACE(at);
    ASSERT_LT(at, 500);
    TempFolder run;
    prepare(run.path());
    std::filesystem::resize_file(checkpoint_folder(run.path(), 20) / "state-0000.h5", 1);

    const int ended = save_under_fault(run.path(), 20, fault_kill, at);

    const auto newest = newest_checkpoint(run.path(), {});
    ASSERT_TRUE(newest);
    EXPECT_EQ(test::differs_from_sample(*newest, newest->manifest().step), "");
    if (ended == kExitNoFault) {
      EXPECT_EQ(newest->manifest().step, 20);
      break;
    }
  }
}

// A state that needs about 3 MiB. Filled by hand: after a fork, LibTorch's threads are not there.
void write_large(StateWriter& out) {
  at::Tensor large = at::empty({3 << 20}, at::kByte);
  std::memset(large.mutable_data_ptr(), 7, large.nbytes());
  out.tensor("large", large);
}

TEST(SaveOnAFullDisk, IsToldAndLeavesTheOldOne) {
  TempFolder disk;
  if (::mount("tmpfs", disk.path().c_str(), "tmpfs", 0, "size=8m") != 0)
    GTEST_SKIP() << "mounting needs root";
  CheckpointStore store(disk.path(), {.keep = 2});
  const SaveResult first = store.save(1, test::kMeta, write_large);
  const SaveResult second = store.save(2, test::kMeta, write_large);
  const SaveResult third = store.save(3, test::kMeta, write_large);
  const auto steps = checkpoint_steps(disk.path());
  const auto names = test::names_in(disk.path() / "checkpoints");
  const auto newest = newest_checkpoint(disk.path(), {});
  ::umount(disk.path().c_str());

  EXPECT_TRUE(first.saved) << first.problem;
  EXPECT_TRUE(second.saved) << second.problem;
  EXPECT_FALSE(third.saved);
  EXPECT_THAT(third.problem, HasSubstr("step 3"));
  EXPECT_THAT(third.problem, HasSubstr(disk.path().string()));
  EXPECT_THAT(third.problem, HasSubstr("MiB are free"));
  EXPECT_THAT(third.problem, HasSubstr("3.0 MiB"));
  EXPECT_THAT(steps, ElementsAre(2, 1));
  EXPECT_EQ(names.size(), 2u);
  EXPECT_EQ(newest->manifest().step, 2);
}

// The space is there when it is looked at and gone when it is written: statvfs does not see RLIMIT_FSIZE.
TEST(SaveOnAFullDisk, IsToldWhenTheSpaceEndsWhileWriting) {
  TempFolder run;
  prepare(run.path());
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit { 1 << 20, 1 << 20 };
    ::setrlimit(RLIMIT_FSIZE, &limit);
    CheckpointStore store(run.path(), {.keep = 2});
    const SaveResult result = store.save(30, test::kMeta, write_large);
    ::_exit(result.saved ? 1 : result.problem.find("File too large") == std::string::npos ? 2 : 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);

  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(check_all(run.path()), 20);
  EXPECT_EQ(test::names_in(run.path() / "checkpoints").size(), 2u);
}

TEST(SaveOnAFullDisk, IsToldWhenTheRunFolderVanished) {
  TempFolder run;
  const auto folder = run / "gone";
  std::filesystem::create_directory(folder);
  CheckpointStore store(folder, {});
  std::filesystem::remove_all(folder);

  const SaveResult result = test::save_sample(store, 5);

  EXPECT_FALSE(result.saved);
  EXPECT_THAT(result.problem, HasSubstr(folder.string()));
}

}  // namespace
}  // namespace kumiko
