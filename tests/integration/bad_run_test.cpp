// SPDX-License-Identifier: Apache-2.0
// Folders and disks that fail a run, and runs that diverge.
#include <algorithm>

#include <gtest/gtest.h>

#include "tests/integration/refusal.hpp"
#include "tests/support/mounted.hpp"

namespace kumiko::test {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> lines_with(const std::string& text, const std::string& part) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.find(part) != std::string::npos) lines.push_back(line);
  }
  return lines;
}

std::vector<std::string> checkpoints_of(const std::filesystem::path& run) {
  std::vector<std::string> names;
  for (const auto& item : std::filesystem::directory_iterator(run / "checkpoints")) names.push_back(item.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class BadRunFolder : public ::testing::Test {
 protected:
  Workspace work_;
};

TEST_F(BadRunFolder, ThatCannotBeMadeIsRefusedWithTheReason) {
  const std::string recipe = read_text(work_ / "recipe.yaml");
  for (const std::string folder : {"recipe.yaml", "recipe.yaml/below"}) {
    expect_refusal(work_.kumiko({"train", "recipe.yaml", "output_dir=" + folder}), 2,
                   {"run folder " + folder, "Not a directory", "choose another output_dir"});
  }
  expect_refusal(work_.kumiko({"train", "recipe.yaml", "output_dir=/proc/kumiko"}), 2, {"run folder /proc/kumiko", "choose another output_dir"});
  EXPECT_EQ(read_text(work_ / "recipe.yaml"), recipe);
}

TEST_F(BadRunFolder, ThatHasNoRoomIsRefusedBeforeTraining) {
  ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "train.steps=6", "output_dir=first"}).exit_code, 0);   // its shards exist now
  const Finished result = run_command({"env", std::string("LD_PRELOAD=") + KUMIKO_FAULT_SHIM, "KUMIKO_FAULT_KIND=enospc", "KUMIKO_FAULT_STAYS=1",
                                       "KUMIKO_FAULT_AT=2", kBinary, "train", "recipe.yaml"},
                                      work_.path());
  expect_refusal(result, 2, {"cannot write", "No space left on device", "make room or choose another output_dir"});
}

TEST_F(BadRunFolder, InUseNamesTheHolderAndLeavesItsRunAlone) {
  ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "output_dir=alone"}).exit_code, 0);
  Process first({kBinary, "train", "recipe.yaml"}, work_.path(), work_ / "first.log");
  ASSERT_TRUE(first.wait_for_output("step 10/60"));
  first.signal(SIGSTOP);   // so that it cannot end before the second has looked
  const Finished second = work_.kumiko({"train", "recipe.yaml"});
  const Finished changed = work_.kumiko({"train", "recipe.yaml", "optimizer.lr=0.02", "checkpoint.resume=never"});
  first.signal(SIGCONT);
  const std::string holder = "process " + std::to_string(first.pid());
  expect_refusal(second, 2, {"run folder run is in use by " + holder, "on host", "since", "stop it, or choose another output_dir"});
  expect_refusal(changed, 2, {"in use by " + holder});
  const Finished result = first.wait();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(work_.digest("run"), work_.digest("alone"));
  EXPECT_EQ(work_.metrics("run"), work_.metrics("alone"));
}

class FullDisk : public ::testing::Test {
 protected:
  // Trains while, from the given file system call on, every write fails.
  Finished train_under_fault(const std::string& call, bool stays) {
    std::vector<std::string> command = {"env", std::string("LD_PRELOAD=") + KUMIKO_FAULT_SHIM, "KUMIKO_FAULT_KIND=enospc", "KUMIKO_FAULT_AT=" + call};
    if (stays) command.emplace_back("KUMIKO_FAULT_STAYS=1");
    for (const char* word : {kBinary, "train", "recipe.yaml"}) command.emplace_back(word);
    return run_command(command, work_.path());
  }
  void train_whole() { ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "output_dir=whole"}).exit_code, 0); }
  void expect_goes_on_as_whole() {
    const Finished again = work_.kumiko({"train", "recipe.yaml"});
    ASSERT_EQ(again.exit_code, 0) << again.output;
    EXPECT_EQ(work_.digest("run"), work_.digest("whole"));
    EXPECT_EQ(work_.metrics("run"), work_.metrics("whole"));
  }

  Workspace work_;
};

TEST_F(FullDisk, InTheMiddleOfACheckpointIsALoudWarningAndTrainingGoesOn) {
  train_whole();
  int failed_saves = 0;
  for (const char* call : {"45", "55", "65", "75", "85", "95", "105"}) {
    SCOPED_TRACE(call);
    std::filesystem::remove_all(work_ / "run");
    const Finished result = train_under_fault(call, false);   // once: there is room again afterwards
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("run complete"));
    for (const auto& line : lines_with(result.output, "cannot save the checkpoint")) {
      ++failed_saves;
      EXPECT_THAT(line, HasSubstr("kumiko: warning: "));
      EXPECT_THAT(line, HasSubstr("No space left on device"));
      EXPECT_THAT(line, HasSubstr("training goes on"));
      EXPECT_THAT(line, HasSubstr("run/checkpoints"));
    }
    EXPECT_EQ(work_.digest("run"), work_.digest("whole"));
    EXPECT_EQ(work_.metrics("run"), work_.metrics("whole"));
  }
  EXPECT_GE(failed_saves, 2);
}

TEST_F(FullDisk, AtTheEndIsExitFourAndTheOlderCheckpointsGoOn) {
  train_whole();
  for (const char* call : {"100", "200"}) {
    SCOPED_TRACE(call);
    std::filesystem::remove_all(work_ / "run");
    const Finished result = train_under_fault(call, true);
    expect_refusal(result, 4, {"run/"});
    EXPECT_THAT(result.output, HasSubstr("cannot save the checkpoint of step 60"));
    EXPECT_THAT(result.output, HasSubstr("metrics.jsonl: No space left on device; the lines are kept"));
    const auto sound = work_.kumiko({"inspect", "run"});
    EXPECT_EQ(sound.exit_code, 0) << sound.output;
    EXPECT_EQ(sound.output.find("skipped"), std::string::npos) << sound.output;
    for (const auto& name : checkpoints_of(work_ / "run")) EXPECT_EQ(name.find("tmp"), std::string::npos) << name;
    expect_goes_on_as_whole();
  }
}

TEST_F(FullDisk, ThatIsRealKeepsWhatFittedAndGoesOnWhenItHasGrown) {
  Mounted disk(work_ / "disk");
  if (!disk.mount("size=3200k")) GTEST_SKIP() << "mounting needs root";
  train_whole();
  const Finished result = work_.kumiko({"train", "recipe.yaml", "output_dir=disk/run"});
  expect_refusal(result, 4, {"last checkpoint could not be saved", "disk/run/checkpoints", "are free", "make room", "same command again"});
  EXPECT_THAT(read_text(work_ / "disk/run/summary.json"), HasSubstr("\"complete\": false"));
  const auto warnings = lines_with(result.output, "warning: cannot save the checkpoint of step 21");
  ASSERT_EQ(warnings.size(), 1u) << result.output;
  EXPECT_THAT(warnings.front(), HasSubstr("training goes on and the checkpoints before it stay"));
  EXPECT_EQ(checkpoints_of(work_ / "disk/run"), (std::vector<std::string>{"step-00000007", "step-00000014"}));

  ASSERT_TRUE(disk.grow("size=32m"));
  const Finished again = work_.kumiko({"train", "recipe.yaml", "output_dir=disk/run"});
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_THAT(again.output, HasSubstr("resumed at step 14"));
  EXPECT_EQ(work_.digest("disk/run"), work_.digest("whole"));
  EXPECT_EQ(work_.metrics("disk/run"), work_.metrics("whole"));
}

class Divergence : public ::testing::Test {
 protected:
  // Decay that multiplies the weights by -999 a step.
  Finished train(std::vector<std::string> changes) {
    std::vector<std::string> command = {"train", "recipe.yaml", "optimizer.lr=1000", "optimizer.weight_decay=1", "lr_schedule.warmup_steps=0",
                                        "checkpoint.every=1"};
    command.insert(command.end(), changes.begin(), changes.end());
    return work_.kumiko(command);
  }
  // Digest of each tensor of model and optimizer, by the manifest.
  std::map<std::string, std::string> state_of(const std::string& checkpoint) const {
    std::map<std::string, std::string> digests;
    const auto manifest = nlohmann::json::parse(read_text(work_ / ("run/checkpoints/" + checkpoint + "/manifest.json")));
    for (const auto& [name, tensor] : manifest["tensors"].items()) digests[name] = tensor["sha256"];
    return digests;
  }
  Workspace work_;
};

TEST_F(Divergence, StopsWithSevenAndADiagnosisAfterStepsInARow) {
  const Finished result = train({});
  expect_refusal(result, 7, {"diverged: 5 steps in a row", "non-finite", "step ", "loss nan", "none of their updates was applied",
                             "Lower optimizer.lr", "train.grad_clip", "warmup_steps", "resume from the last checkpoint"});
  EXPECT_EQ(lines_with(result.output, "not finite and was skipped; nothing moved").size(), 4u) << result.output;
  expect_refusal(train({"output_dir=two", "train.max_non_finite_steps=2"}), 7, {"diverged: 2 steps in a row"});
}

TEST_F(Divergence, KeepsTheCheckpointsFromBeforeIt) {
  const Finished result = train({});
  ASSERT_EQ(result.exit_code, 7) << result.output;
  const std::string first_skipped = lines_with(result.output, "was skipped").front();
  const int step = std::stoi(first_skipped.substr(first_skipped.find("step ") + 5));
  EXPECT_EQ(checkpoints_of(work_ / "run").size(), 2u);
  EXPECT_THAT(checkpoints_of(work_ / "run").back(), ::testing::EndsWith("0" + std::to_string(step - 1)));
  EXPECT_EQ(work_.metrics("run").back()["loss"], "nan");
  const Finished again = train({"optimizer.lr=0.001", "optimizer.weight_decay=0", "--allow-changes", "optimizer"});
  EXPECT_THAT(again.output, HasSubstr("resumed at step " + std::to_string(step - 1)));
}

TEST_F(Divergence, AppliesNoUpdateOfASkippedStep) {
  const Finished result = train({"train.max_non_finite_steps=1000", "train.steps=12"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  ASSERT_FALSE(lines_with(result.output, "was skipped").empty());
  const auto names = checkpoints_of(work_ / "run");
  ASSERT_EQ(names.size(), 2u);
  EXPECT_EQ(names.back(), "step-00000012");
  const auto before = state_of(names.front());
  EXPECT_GT(before.size(), 50u);
  EXPECT_EQ(state_of(names.back()), before);
}

}  // namespace
}  // namespace kumiko::test
