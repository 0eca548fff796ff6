// SPDX-License-Identifier: Apache-2.0
#include "framework/train/run_folder.hpp"

#include <csignal>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "framework/core/error.hpp"
#include "tests/support/temp_folder.hpp"
#include "tests/train/sample_state.hpp"

namespace kumiko {
namespace {

using ::testing::HasSubstr;
using test::TempFolder;

std::string refusal(const std::filesystem::path& path) {
  try {
    RunFolder folder(path);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

// A child that holds the run folder until it is killed.
class Holder {
 public:
  explicit Holder(const std::filesystem::path& path) {
    std::array<int, 2> ready{};
    if (::pipe(ready.data()) != 0) throw std::runtime_error("no pipe");
    pid_ = ::fork();
    if (pid_ == 0) {
      const RunFolder folder(path);
      [[maybe_unused]] const auto told = ::write(ready[1], "x", 1);
      for (;;) ::pause();
    }
    char byte = 0;
    [[maybe_unused]] const auto got = ::read(ready[0], &byte, 1);
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~Holder() {
    if (pid_ > 0) kill();
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    killed_ = pid_;
    pid_ = -1;
  }
  pid_t pid() const { return pid_ > 0 ? pid_ : killed_; }

 private:
  pid_t pid_ = -1;
  pid_t killed_ = -1;
};

TEST(RunFolder, MakesItselfWithItsParents) {
  TempFolder temp;
  const auto path = temp / "a" / "b";

  const RunFolder folder(path);

  EXPECT_TRUE(std::filesystem::is_directory(path));
  EXPECT_FALSE(folder.dead_holder());
}

TEST(RunFolder, RefusesASecondRunAndNamesTheFirst) {
  TempFolder temp;
  Holder holder(temp.path());

  const std::string message = refusal(temp.path());

  EXPECT_THAT(message, HasSubstr("in use by process " + std::to_string(holder.pid()) + " on host "));
  EXPECT_THAT(message, HasSubstr(temp.path().string()));
  EXPECT_THAT(message, HasSubstr("since 20"));
}

TEST(RunFolder, RefusesASecondRunOfTheSameProcess) {
  TempFolder temp;
  const RunFolder first(temp.path());

  EXPECT_THAT(refusal(temp.path()), HasSubstr("in use by process " + std::to_string(::getpid())));
}

TEST(RunFolder, TakesOverAfterAKill) {
  TempFolder temp;
  Holder holder(temp.path());
  holder.kill();

  const RunFolder folder(temp.path());

  ASSERT_TRUE(folder.dead_holder());
  EXPECT_EQ(folder.dead_holder()->pid, holder.pid());
}

TEST(RunFolder, IsFreeAfterACleanEnd) {
  TempFolder temp;
  { const RunFolder folder(temp.path()); }

  const RunFolder folder(temp.path());

  EXPECT_FALSE(folder.dead_holder());
}

TEST(RunFolder, TakesOverFromBeforeARestartOfTheMachine) {
  TempFolder temp;
  RunHolder before = RunHolder::self();
  before.boot_id = "00000000-0000-0000-0000-000000000000";
  test::write_text(temp / "run.lock", before.to_text());

  const RunFolder folder(temp.path());

  ASSERT_TRUE(folder.dead_holder());
  EXPECT_EQ(folder.dead_holder()->boot_id, before.boot_id);
}

TEST(RunFolder, OverlooksADamagedLockFile) {
  TempFolder temp;
  for (const std::string& text :
       {std::string("pid: many\nhost: x\n"), std::string(100000, 'x'), std::string("\0\0\0", 3)}) {
    test::write_text(temp / "run.lock", text);
    EXPECT_FALSE(RunFolder(temp.path()).dead_holder());
  }
}

TEST(RunHolder, ReadsWhatItWrites) {
  const RunHolder self = RunHolder::self();
  const auto again = RunHolder::parse(self.to_text());

  ASSERT_TRUE(again);
  EXPECT_EQ(again->pid, ::getpid());
  EXPECT_EQ(again->host, self.host);
  EXPECT_EQ(again->boot_id, self.boot_id);
  EXPECT_EQ(again->start_ticks, self.start_ticks);
  EXPECT_EQ(again->since, self.since);
  EXPECT_GT(self.start_ticks, 0);
  EXPECT_EQ(self.boot_id.size(), 36u);
}

TEST(RunFolder, RefusesAFileInItsPlace) {
  TempFolder temp;
  test::write_text(temp / "file", "x");

  EXPECT_THAT(refusal(temp / "file"), HasSubstr((temp / "file").string()));
  EXPECT_THAT(refusal(temp / "file" / "below"), HasSubstr("Not a directory"));
}

TEST(RunFolder, RefusesAFolderThatCannotBeWritten) {
  TempFolder temp;
  std::filesystem::create_directory(temp / "run");
  std::filesystem::permissions(temp.path(), std::filesystem::perms::all);
  std::filesystem::permissions(temp / "run",
                               std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec |
                                   std::filesystem::perms::others_read | std::filesystem::perms::others_exec);
  const bool is_root = ::geteuid() == 0;
  if (is_root) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  const std::string below = refusal(temp / "run" / "below");
  const std::string inside = refusal(temp / "run");
  if (is_root) {
    ASSERT_EQ(::seteuid(0), 0);
  }

  EXPECT_THAT(below, HasSubstr("Permission denied"));
  EXPECT_THAT(inside,
              HasSubstr("cannot write in the run folder " + (temp / "run").string() + ": Permission denied"));
}

TEST(RunFolder, RefusesAReadOnlyDisk) {
  TempFolder temp;
  if (::mount("tmpfs", temp.path().c_str(), "tmpfs", MS_RDONLY, "size=1m") != 0)
    GTEST_SKIP() << "mounting needs root";

  const std::string message = refusal(temp.path());
  ::umount(temp.path().c_str());

  EXPECT_THAT(message, HasSubstr("Read-only file system"));
}

TEST(RunFolder, TakesAStopRequestOnce) {
  TempFolder temp;
  const RunFolder folder(temp.path());
  EXPECT_FALSE(folder.take_stop_request());
  test::write_text(temp / "stop", "");

  EXPECT_TRUE(folder.take_stop_request());
  EXPECT_FALSE(folder.take_stop_request());
  EXPECT_FALSE(std::filesystem::exists(temp / "stop"));
}

TEST(RunFolder, WritesTheRecipe) {
  TempFolder temp;
  const RunFolder folder(temp.path());

  folder.write_recipe("train:\n  steps: 10\n");
  folder.write_recipe("train:\n  steps: 20\n");

  EXPECT_EQ(test::read_text(temp / "recipe.yaml"), "train:\n  steps: 20\n");
}

}  // namespace
}  // namespace kumiko
