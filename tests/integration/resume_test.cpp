// SPDX-License-Identifier: Apache-2.0
// A run that is killed and resumed is the run that was not.
#include <algorithm>
#include <cctype>
#include <memory>

#include <gtest/gtest.h>

#include "tests/integration/kumiko_run.hpp"

namespace kumiko::test {
namespace {

class Resume : public ::testing::Test {
 protected:
  void train_whole(const std::string& run) {
    const Finished result = work_.kumiko(command(run));
    ASSERT_EQ(result.exit_code, 0) << result.output;
  }
  // One sequence a micro-batch: slow enough to be caught in the middle.
  static std::vector<std::string> command(const std::string& run) {
    return {"train", "recipe.yaml", "train.micro_batch_size=1", "output_dir=" + run};
  }
  std::unique_ptr<Process> start(const std::string& run) {
    auto words = command(run);
    words.insert(words.begin(), kBinary);
    return std::make_unique<Process>(words, work_.path(), work_ / (run + ".log"));
  }
  Workspace work_;
};

TEST_F(Resume, TwoRunsAreBitEqual) {
  train_whole("a");
  train_whole("b");
  EXPECT_EQ(work_.digest("a"), work_.digest("b"));
  EXPECT_EQ(work_.digest("a").size(), 64u);
  EXPECT_EQ(work_.metrics("a"), work_.metrics("b"));
}

TEST_F(Resume, KilledTenTimesEqualsUnbroken) {
  train_whole("whole");
  std::uint64_t random = 99;
  int resumed = 0;
  for (int kill = 0; kill < 10; ++kill) {
    // Not before the first checkpoint, not after the end; each attempt goes a little further.
    const int step = 8 + kill * 4 + static_cast<int>((random = mix64(random)) % 4);
    const auto process = start("broken");
    ASSERT_TRUE(process->wait_for_output("step " + std::string(step < 10 ? " " : "") + std::to_string(step) + "/60")) << process->output();
    process->kill_group();
    const Finished killed = process->wait();
    EXPECT_EQ(killed.exit_code, 128 + SIGKILL);
    if (killed.output.find("resumed at step ") != std::string::npos) ++resumed;
  }
  const Finished last = work_.kumiko(command("broken"));
  ASSERT_EQ(last.exit_code, 0) << last.output;
  EXPECT_NE(last.output.find("resumed at step "), std::string::npos);
  EXPECT_EQ(resumed, 9);
  EXPECT_EQ(work_.digest("broken"), work_.digest("whole"));
  EXPECT_EQ(work_.metrics("broken"), work_.metrics("whole"));
}

TEST_F(Resume, StopSignalAndStopFileSaveAndExitZero) {
  train_whole("whole");
  {
    const auto process = start("stopped");
    ASSERT_TRUE(process->wait_for_output("step 12/60"));
    process->signal(SIGUSR2);
    const Finished stopped = process->wait();
    EXPECT_EQ(stopped.exit_code, 0);
    EXPECT_NE(stopped.output.find("run stopped as asked"), std::string::npos) << stopped.output;
  }
  {
    const auto process = start("stopped");
    ASSERT_TRUE(process->wait_for_output("step 30/60"));
    write_text(work_ / "stopped/stop", "");
    const Finished stopped = process->wait();
    EXPECT_EQ(stopped.exit_code, 0);
    EXPECT_NE(stopped.output.find("run stopped as asked"), std::string::npos) << stopped.output;
    EXPECT_FALSE(std::filesystem::exists(work_ / "stopped/stop"));
  }
  EXPECT_EQ(work_.kumiko(command("stopped")).exit_code, 0);
  EXPECT_EQ(work_.digest("stopped"), work_.digest("whole"));
  EXPECT_EQ(work_.metrics("stopped"), work_.metrics("whole"));
}

TEST_F(Resume, SignalUsr1SavesAndGoesOn) {
  Process process({kBinary, "train", "recipe.yaml", "train.micro_batch_size=1", "checkpoint.every=1000"}, work_.path(), work_ / "usr1.log");
  ASSERT_TRUE(process.wait_for_output("step 12/60"));
  process.signal(SIGUSR1);
  const Finished result = process.wait();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  std::size_t saved = 0;
  for (std::size_t at = result.output.find("saved "); at != std::string::npos; at = result.output.find("saved ", at + 1)) ++saved;
  EXPECT_EQ(saved, 2u) << result.output;   // the one asked for and the last
}

TEST_F(Resume, FallsBackToAnOlderCheckpointWhenTheNewestIsDamaged) {
  train_whole("whole");
  const auto newest = work_ / "whole/checkpoints/step-00000060/state-0000.h5";
  std::string bytes = read_text(newest);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  const std::string before = work_.digest("whole");
  write_text(newest, bytes);
  const Finished again = work_.kumiko(command("whole"));
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_NE(again.output.find("step-00000060"), std::string::npos) << again.output;
  EXPECT_NE(again.output.find("resumed at step 56"), std::string::npos) << again.output;
  EXPECT_EQ(work_.digest("whole"), before);
}

TEST_F(Resume, AllCheckpointsDamagedIsExitFour) {
  train_whole("whole");
  for (const auto& entry : std::filesystem::directory_iterator(work_ / "whole/checkpoints")) {
    std::filesystem::resize_file(entry.path() / "state-0000.h5", 1000);
  }
  const Finished again = work_.kumiko(command("whole"));
  EXPECT_EQ(again.exit_code, 4) << again.output;
  EXPECT_NE(again.output.find("state-0000.h5"), std::string::npos) << again.output;
}

TEST_F(Resume, RefusesAChangedRecipeAndNamesTheKey) {
  ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "train.steps=20", "lr_schedule.warmup_steps=5"}).exit_code, 0);
  const Finished changed = work_.kumiko({"train", "recipe.yaml", "train.steps=20", "optimizer.lr=0.02"});
  EXPECT_EQ(changed.exit_code, 2);
  EXPECT_NE(changed.output.find("optimizer.lr"), std::string::npos) << changed.output;
  const Finished harmless = work_.kumiko({"train", "recipe.yaml", "train.steps=20", "log.every=5"});
  EXPECT_EQ(harmless.exit_code, 0) << harmless.output;
}

class ResumeOf : public Resume, public ::testing::WithParamInterface<const char*> {};

TEST_P(ResumeOf, AKilledRunEqualsUnbroken) {
  const auto with = [](const std::string& run) {
    return std::vector<std::string>{"train", "recipe.yaml", GetParam(), "train.micro_batch_size=1", "output_dir=" + run};
  };
  ASSERT_EQ(work_.kumiko(with("whole")).exit_code, 0);
  {
    std::vector<std::string> words = with("part");
    words.insert(words.begin(), kBinary);
    Process process(words, work_.path(), work_ / "part.log");
    ASSERT_TRUE(process.wait_for_output("step 17/60")) << process.output();
    process.kill_group();
  }
  const Finished resumed = work_.kumiko(with("part"));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_NE(resumed.output.find("resumed at step "), std::string::npos) << resumed.output;
  EXPECT_EQ(work_.digest("part"), work_.digest("whole"));
  EXPECT_EQ(work_.metrics("part"), work_.metrics("whole"));
}

INSTANTIATE_TEST_SUITE_P(Variants, ResumeOf,
                         ::testing::Values("method.name=loqt_nq", "data.batching=bucketed", "data.batching=padded", "train.precision=bf16",
                                           "lr_schedule.kind=plateau", "method.basis.solver=svd", "method.moments=reset"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace_if(name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace kumiko::test
