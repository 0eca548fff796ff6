// SPDX-License-Identifier: Apache-2.0
// The same run over one, two and four ranks of mpirun.
#include <gtest/gtest.h>

#include "tests/integration/kumiko_run.hpp"

namespace kumiko::test {
namespace {

class Ranks : public ::testing::Test {
 protected:
  Finished mpirun(int ranks, std::vector<std::string> arguments) {
    return run_command(Workspace::mpirun(ranks, std::move(arguments)), work_.path());
  }
  Workspace work_;
};

TEST_F(Ranks, DeterministicRunsAreBitEqualOverOneTwoAndFour) {
  const std::vector<std::string> base = {"train", "recipe.yaml", "train.deterministic=true"};
  const auto with = [&](const std::string& extra) {
    auto all = base;
    all.push_back(extra);
    return all;
  };
  const Finished one = work_.kumiko(with("output_dir=one"));
  ASSERT_EQ(one.exit_code, 0) << one.output;
  const std::string expected = work_.digest("one");
  ASSERT_EQ(work_.metrics("one").back()["merges"], 3);
  for (const int ranks : {2, 4}) {
    const std::string run = "ranks" + std::to_string(ranks);
    const Finished many = mpirun(ranks, with("output_dir=" + run));
    ASSERT_EQ(many.exit_code, 0) << many.output;
    EXPECT_EQ(work_.digest(run), expected);
    EXPECT_EQ(work_.metrics(run), work_.metrics("one"));
  }
}

TEST_F(Ranks, TwoHostsOfANetworkAreBitEqualToOneRank) {
  const std::string lan = KUMIKO_LAN_SCRIPT;
  if (run_command({lan, "check"}, work_.path()).exit_code == 77) GTEST_SKIP() << "no network namespaces here: " << read_text(work_ / "output.log");
  ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "train.deterministic=true", "output_dir=one"}).exit_code, 0);
  const Finished result = run_command(
      {"env", "KUMIKO_LAN=ranks", lan, "run", "2", kBinary, "train", "recipe.yaml", "train.deterministic=true", "output_dir=hosts"}, work_.path());
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_NE(result.output.find("2 ranks"), std::string::npos) << result.output;
  EXPECT_EQ(work_.digest("hosts"), work_.digest("one"));
  EXPECT_EQ(work_.metrics("hosts"), work_.metrics("one"));
}

TEST_F(Ranks, WithoutDeterministicLossesAgreeToRounding) {
  // Unquantized weights: codes that flip at a threshold are jumps, not rounding.
  const std::vector<std::string> base = {"train", "recipe.yaml", "method.name=loqt_nq"};
  auto one = base;
  one.push_back("output_dir=one");
  auto two = base;
  two.push_back("output_dir=two");
  ASSERT_EQ(work_.kumiko(one).exit_code, 0);
  const Finished result = mpirun(2, two);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const auto a = work_.metrics("one");
  const auto b = work_.metrics("two");
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i]["loss"].get<double>(), b[i]["loss"].get<double>(), 1e-5) << a[i];
}

TEST_F(Ranks, OnlyRankZeroPrints) {
  const Finished result = mpirun(2, {"train", "recipe.yaml", "train.steps=8"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const std::size_t first = result.output.find("step 8/8");
  EXPECT_NE(first, std::string::npos) << result.output;
  EXPECT_EQ(result.output.find("step 8/8", first + 1), std::string::npos) << result.output;
}

TEST_F(Ranks, AResumeOnAnotherNumberOfRanksContinuesTheSameRun) {
  ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "train.deterministic=true", "output_dir=one"}).exit_code, 0);
  {
    Process process({kBinary, "train", "recipe.yaml", "train.deterministic=true", "output_dir=mixed"}, work_.path(), work_ / "mixed.log");
    ASSERT_TRUE(process.wait_for_output("step 25/60")) << process.output();
    process.kill_group();
  }
  const Finished resumed = mpirun(2, {"train", "recipe.yaml", "train.deterministic=true", "output_dir=mixed"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_NE(resumed.output.find("resumed at step 21"), std::string::npos) << resumed.output;
  EXPECT_EQ(work_.digest("mixed"), work_.digest("one"));
}

TEST_F(Ranks, ThatDisagreeOnTheRecipeRefuseAndNameTheKey) {
  const std::string other = read_text(work_ / "recipe.yaml");
  write_text(work_ / "other.yaml", std::string(other).replace(other.find("lr: 0.01"), 8, "lr: 0.02"));
  ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "train.steps=8"}).exit_code, 0);   // shards exist now
  std::vector<std::string> command = Workspace::mpirun(1, {"train", "recipe.yaml", "train.steps=8", "output_dir=two"});
  for (const char* word : {":", "-n", "1", kBinary, "train", "other.yaml", "train.steps=8", "output_dir=two"}) command.push_back(word);
  const Finished result = run_command(command, work_.path());
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_NE(result.output.find("recipe"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("lr: 0.02"), std::string::npos) << result.output;
}

TEST_F(Ranks, AGlobalBatchThatRanksDoNotDivideIsRefused) {
  const Finished result = mpirun(3, {"train", "recipe.yaml"});
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_NE(result.output.find("train.global_batch_size"), std::string::npos) << result.output;
}

TEST_F(Ranks, AKilledRankEndsTheJobAndTheRunResumes) {
  Process process(Workspace::mpirun(2, {"train", "recipe.yaml", "train.deterministic=true", "output_dir=killed"}), work_.path(), work_ / "killed.log");
  ASSERT_TRUE(process.wait_for_output("step 20/60")) << process.output();
  ASSERT_EQ(std::system(("pkill -9 -n -P " + std::to_string(process.pid())).c_str()), 0);
  EXPECT_NE(process.wait().exit_code, 0);
  const Finished resumed = mpirun(2, {"train", "recipe.yaml", "train.deterministic=true", "output_dir=killed"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "train.deterministic=true", "output_dir=one"}).exit_code, 0);
  EXPECT_EQ(work_.digest("killed"), work_.digest("one"));
}

}  // namespace
}  // namespace kumiko::test
