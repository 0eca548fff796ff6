// SPDX-License-Identifier: Apache-2.0
// Sweeps as a user runs, breaks and repeats them.
#include <chrono>
#include <cmath>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/integration/sweep_space.hpp"
#include "tests/support/mounted.hpp"

namespace kumiko::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr const char* kTwoVariants = R"(
variants:
  full: {method: {name: full}, lr_sweep: {optimizer.lr: [0.002, 0.01]}}
  loqt: {method.schedule.tau: 7}
seeds: [1, 2]
)";

class Sweeps : public ::testing::Test {
 protected:
  // SIGKILL of the workbench alone, in the middle of a run; its children must follow.
  void kill_after(const SweepSpace& space, const std::string& said, const std::string& log) const {
    Process process({kBinary, "ablate", "sweep.yaml", "-j", "2"}, space.path(), space / log);
    ASSERT_TRUE(process.wait_for_output(said)) << process.output();
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    process.signal(SIGKILL);
    EXPECT_EQ(process.wait().exit_code, 128 + SIGKILL) << "it ended before it was killed";
    for (int i = 0; i < 100 && !space.held_runs().empty(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_THAT(space.held_runs(), IsEmpty()) << "children outlive the workbench";
  }
  static std::string run_log(const SweepSpace& space, const std::string& run) {
    return read_text(space / ("out/runs/" + run + "/train.log"));
  }
};

TEST_F(Sweeps, KilledTwiceGiveTheSameTableAndRepeatNoRun) {
  const SweepSpace whole(kTwoVariants);
  const Finished unbroken = whole.ablate({"-j", "2"});
  ASSERT_EQ(unbroken.exit_code, 0) << unbroken.output;

  const SweepSpace broken(kTwoVariants);
  kill_after(broken, "[1/6]", "first.log");
  const std::string finished = "full/lr-0.002/seed-1";
  const std::string before = run_log(broken, finished);
  ASSERT_THAT(before, HasSubstr("run complete"));
  kill_after(broken, "[4/6]", "second.log");
  const Finished last = broken.ablate({"-j", "2"});
  ASSERT_EQ(last.exit_code, 0) << last.output;
  EXPECT_THAT(last.output, HasSubstr("runs are finished already"));

  EXPECT_EQ(broken.timeless_table(), whole.timeless_table());
  EXPECT_EQ(run_log(broken, finished), before) << "a finished run was started again";
  for (const char* run : {"out/runs/full/lr-0.01/seed-2", "out/runs/loqt/fixed/seed-1"})
    EXPECT_EQ(broken.metrics(run), whole.metrics(run)) << run;
}

TEST_F(Sweeps, ChooseTheLearningRateOnShardsThatTheTableIsNotReportedOn) {
  const SweepSpace space(kTwoVariants);
  const Finished result = space.ablate({"-j", "2"});
  ASSERT_EQ(result.exit_code, 0) << result.output;

  std::map<std::string, double> selection;  // mean by learning rate
  for (const char* point : {"lr-0.002", "lr-0.01"}) {
    for (const char* seed : {"seed-1", "seed-2"}) {
      const auto folder = space / ("out/runs/full/" + std::string(point) + "/" + seed);
      EXPECT_THAT(read_text(folder / "recipe.yaml"), HasSubstr("validation: [shards/select-*.h5]"));
      selection[point] +=
          nlohmann::json::parse(read_text(folder / "summary.json"))["validation_perplexity"].get<double>() /
          2;
    }
  }
  const std::string best = selection["lr-0.002"] < selection["lr-0.01"] ? "lr-0.002" : "lr-0.01";
  double expected = 0.0;
  for (const char* seed : {"seed-1", "seed-2"}) {
    const Finished eval =
        space.kumiko({"eval", "out/runs/full/" + best + "/" + seed, "data.validation=shards/val-*.h5"});
    const std::string key = "validation perplexity: ";
    expected += std::stod(eval.output.substr(eval.output.find(key) + key.size())) / 2;
  }
  auto row = space.table()["full"];
  EXPECT_DOUBLE_EQ(std::stod(row["ppl_mean"]), expected);
  EXPECT_EQ("lr-" + row["lr"].substr(3), best);
  EXPECT_THAT(row["note"], HasSubstr("best at the edge"));
  EXPECT_NE(selection[best], expected);
  EXPECT_THAT(read_text(space / "out/table.md"),
              AllOf(HasSubstr("not tuned alike: 2 learning rates were tried for full, 1 for loqt"),
                    HasSubstr("shards/val-")));
}

TEST_F(Sweeps, ReportFailedRunsAndFinishTheOthers) {
  const SweepSpace space(R"(
variants:
  full: {method: {name: full}}
  wild: {method: {name: full}, optimizer: {lr: 1000, weight_decay: 1}, lr_schedule: {warmup_steps: 0}}
  torn: {method: {name: full}, data.validation: torn.h5}
seeds: [1, 2]
)");
  write_text(space / "torn.h5", "no shard");
  const Finished result = space.ablate();
  expect_refusal(
      result, 7,
      {"run wild/fixed/seed-1 failed: diverged: 5 steps in a row", "out/runs/wild/fixed/seed-1/train.log"});
  auto rows = space.table();
  EXPECT_EQ(rows["full"]["runs_finished"], "2");
  EXPECT_EQ(rows["wild"]["runs_finished"], "0");
  EXPECT_EQ(rows["wild"]["ppl_mean"], "");
  EXPECT_THAT(rows["torn"]["note"], HasSubstr("2 of 2 runs failed"));
  const std::string page = read_text(space / "out/report.html");
  EXPECT_THAT(page,
              AllOf(HasSubstr("wild/fixed/seed-2"), HasSubstr("torn/fixed/seed-1"), HasSubstr("torn.h5")));

  const std::string wild = run_log(space, "wild/fixed/seed-1");
  const std::string torn = run_log(space, "torn/fixed/seed-1");
  EXPECT_EQ(space.ablate().exit_code, 7);
  EXPECT_EQ(run_log(space, "wild/fixed/seed-1"), wild) << "that it diverged is known";
  EXPECT_GT(run_log(space, "torn/fixed/seed-1").size(), torn.size())
      << "what is wrong with a file may have been mended";
}

TEST_F(Sweeps, StopAsAskedAndGoOn) {
  const SweepSpace space("variants: {full: {method: {name: full}, train.steps: 3000}}\nseeds: [1]\n");
  Process process({kBinary, "ablate", "sweep.yaml"}, space.path(), space / "stop.log");
  ASSERT_TRUE(process.wait_for_output("preparing them"));
  const auto log = space / "out/runs/full/fixed/seed-1/train.log";
  for (int i = 0; i < 1000 && read_text(log).find("step ") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  process.signal(SIGINT);
  const Finished result = process.wait();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("1 run saves its checkpoint"), HasSubstr("runs finished: 0 of 1"),
                    HasSubstr("the same command goes on")));
  EXPECT_THAT(read_text(log), HasSubstr("run stopped as asked"));
  EXPECT_THAT(space.held_runs(), IsEmpty());
  EXPECT_EQ(space.table()["full"]["note"], "1 to go");
}

TEST_F(Sweeps, LeaveARunThatWasStoppedAloneToTheNextCommand) {
  const SweepSpace space("variants: {full: {method: {name: full}, train.steps: 3000}}\nseeds: [1]\n");
  Process process({kBinary, "ablate", "sweep.yaml"}, space.path(), space / "stop.log");
  const auto run = space / "out/runs/full/fixed/seed-1";
  for (int i = 0; i < 1500 && !std::filesystem::exists(run / "train.log"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  process.signal(SIGUSR1);  // before the run can handle it
  for (int i = 0; i < 1000 && read_text(run / "train.log").find("step ") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  write_text(run / "stop", "");
  const Finished result = process.wait();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("runs finished: 0 of 1"), HasSubstr("the same command goes on")));
  EXPECT_EQ(space.table()["full"]["note"], "1 to go");
}

TEST_F(Sweeps, TakeARunWithAStaleOrMissingSummaryForWhatItsCheckpointSays) {
  const SweepSpace space("variants: {full: {method: {name: full}}}\nseeds: [1]\n");
  ASSERT_EQ(space.ablate().exit_code, 0);
  const std::string run = "out/runs/full/fixed/seed-1";
  write_text(space / (run + "/summary.json"), "{\"steps\": 7, \"complete\": false}");
  const Finished again = space.ablate();
  EXPECT_THAT(again.output, HasSubstr("runs finished: 1 of 1"));
  EXPECT_EQ(space.table()["full"]["runs_finished"], "1");

  auto summary = nlohmann::json::parse(read_text(space / (run + "/summary.json")));
  EXPECT_EQ(summary["steps"], 24);
  EXPECT_GT(summary["train_digest"].get<std::string>().size(), 60U);
  summary["validation_perplexity"] = nullptr;
  write_text(space / (run + "/summary.json"), summary.dump());
  expect_refusal(space.ablate(), 7, {"full/fixed/seed-1", "not finite"});
  EXPECT_EQ(space.table()["full"]["note"], "1 of 1 runs diverged");
}

TEST_F(Sweeps, MeasureAnewWhatWasMeasuredOnOtherTokensAndRefuseSplitsThatShareShards) {
  const SweepSpace space("variants: {full: {method: {name: full}, lr_sweep: {optimizer.lr: [0.002, 0.01]}}}\nseeds: [1]\n");
  const std::vector<std::string> short_runs = {"train.steps=1", "lr_schedule.warmup_steps=0"};
  ASSERT_EQ(space.ablate(short_runs).exit_code, 0);
  const std::string measured = space.table()["full"]["ppl_mean"];
  for (const char* point : {"lr-0.002", "lr-0.01"}) {
    const auto file = space / ("out/runs/full/" + std::string(point) + "/seed-1/evaluation.json");
    if (!std::filesystem::exists(file)) continue;
    auto evaluation = nlohmann::json::parse(read_text(file));
    evaluation["validation_perplexity"] = 1.0;
    evaluation["digest"] = "of shards that were there before";
    write_text(file, evaluation.dump());
  }
  ASSERT_EQ(space.ablate(short_runs).exit_code, 0);
  EXPECT_EQ(space.table()["full"]["ppl_mean"], measured);

  expect_refusal(space.ablate({"selection=shards/val-*.h5", "output_dir=other"}), 2,
                 {"data.validation and the selection shards share tokens", "val-00000.h5", "one file"});
  std::filesystem::copy_file(space / "shards/train-00000.h5", space / "copy.h5");
  expect_refusal(space.ablate({"data.validation=copy.h5", "output_dir=other"}), 2,
                 {"data.train and data.validation share tokens", "copy.h5", "hold the same"});
  EXPECT_FALSE(std::filesystem::exists(space / "other"));
}

TEST_F(Sweeps, ThatAreWrongAreRefusedBeforeAnythingStarts) {
  struct Slip {
    const char* sweep;
    std::vector<std::string> more;
    std::vector<std::string> words;
  };
  const std::vector<Slip> slips = {
      {"variants: {a: {}, b: {method.rnak: 3}}\n",
       {},
       {"sweep.yaml:8:23: method.rnak: unknown key; did you mean 'rank'?", "(variant 'b', sweep.yaml:8:19)"}},
      {"variants: {a: {}, b: {method: {rank: 5000}}}\n", {}, {"rank 5000", "variant 'b'"}},
      {"variants: {a: {}, b: {method: {name: galor}}}\n", {}, {"unknown method 'galor'", "variant 'b'"}},
      {"variants: {a: {}, b: {method.rank: 16}}\n",
       {},
       {"sweep.yaml:8:19: variants 'a' and 'b' are the same recipe"}},
      {"variants: {a: {}, b: {train: {steps: -1}}}\n", {}, {"sweep.yaml:8:38: train.steps: found '-1'"}},
      {"variants: {a: {}}\nbaselin: a\n", {}, {"sweep.yaml:9:1: baselin: unknown key"}},
      {"variants: {a: {data.validation: null}}\n", {}, {"data.validation names no shards"}},
      {"variants: {a: {}}\nlr_sweep: {optimizer.lr: [0.1, 0.2]}\n",
       {"data.prepare.selection=0"},
       {"no shards to choose on", "data.prepare.selection"}},
      {"variants: {a: {}}\n", {"train.stepps=3"}, {"override 'train.stepps=3': train.stepps: unknown key"}},
      {"variants: {a: {lr_schedule.kind: plateau}}\n", {}, {"sweep.yaml:8:", "plateau", "lr_sweep"}},
      {"variants: {a: {}}\n", {"-j", "0"}, {"jobs"}},
      {"variants: {a: {data.train: 'none/train-*.h5', data.prepare: null}}\n",
       {},
       {"no shard matches 'none/train-*.h5'"}},
  };
  const SweepSpace space("");
  for (const Slip& slip : slips) {
    SCOPED_TRACE(slip.sweep);
    space.write_sweep(slip.sweep);
    const int code = std::string(slip.words.front()).find("no shard matches") == 0 ? 3 : 2;
    expect_refusal(space.ablate(slip.more), code, slip.words);
    EXPECT_FALSE(std::filesystem::exists(space / "out"));
    EXPECT_FALSE(std::filesystem::exists(space / "shards"));
  }
}

TEST_F(Sweeps, AreNoRanks) {
  const SweepSpace space(kTwoVariants);
  const Finished result =
      run_command(SweepSpace::mpirun(2, {"ablate", "sweep.yaml", "--dry-run"}), space.path());
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_THAT(result.output, HasSubstr("give it -j instead of mpirun"));
}

TEST_F(Sweeps, DryRunsStartNothing) {
  const SweepSpace space(kTwoVariants);
  const Finished result = space.ablate({"--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("6 runs (2 variants, 2 seeds)"), HasSubstr("full (baseline): 2 learning rates"),
                    HasSubstr("method.schedule.tau 7")));
  EXPECT_FALSE(std::filesystem::exists(space / "out"));
}

TEST_F(Sweeps, MayGrowButNotChange) {
  const SweepSpace space("variants: {full: {method: {name: full}}}\nseeds: [1]\n");
  ASSERT_EQ(space.ablate().exit_code, 0);
  const auto before = content_of(space / "out/runs");

  space.write_sweep("variants: {full: {method: {name: full}, optimizer.lr: 0.003}}\nseeds: [1]\n");
  expect_refusal(space.ablate(), 2,
                 {"variant 'full' has changed", "optimizer.lr was 0.01, is 0.003",
                  "another output_dir, or remove out/runs/full"});
  EXPECT_EQ(content_of(space / "out/runs"), before);

  space.write_sweep(
      "# a remark, and other spelling\nseeds: [1, 2]\nvariants:\n  full:\n    method: {name: full}\n  loqt: "
      "{}\n");
  const Finished grown = space.ablate({"log.every=5", "-j", "2"});
  ASSERT_EQ(grown.exit_code, 0) << grown.output;
  EXPECT_THAT(grown.output, HasSubstr("1 of 4 runs are finished already"));
  auto rows = space.table();
  EXPECT_EQ(rows["loqt"]["difference_n"], "2");
  EXPECT_NEAR(std::stod(rows["loqt"]["difference_mean"]),
              std::stod(rows["loqt"]["ppl_mean"]) - std::stod(rows["full"]["ppl_mean"]), 1e-9);
  for (const auto& [file, bytes] : before) EXPECT_EQ(read_text(space / ("out/runs/" + file)), bytes) << file;
}

TEST_F(Sweeps, OnAFullDiskCountNoRunWithoutItsLastCheckpointAndGoOnWhenItHasGrown) {
  const SweepSpace space("variants: {full: {method: {name: full}}, loqt: {}}\nseeds: [1]\n");
  Mounted disk(space / "out");
  if (!disk.mount("size=5m")) GTEST_SKIP() << "mounting needs root";
  const Finished result = space.ablate();
  EXPECT_THAT(result.exit_code, ::testing::AnyOf(2, 4)) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("make room"), Not(HasSubstr("internal error"))));
  EXPECT_THAT(run_log(space, "full/fixed/seed-1"), HasSubstr("run ended without its last checkpoint"));
  EXPECT_THAT(result.output, Not(HasSubstr("full/fixed/seed-1: finished")));

  ASSERT_TRUE(disk.grow("size=64m"));
  const Finished again = space.ablate();
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_THAT(run_log(space, "full/fixed/seed-1"), HasSubstr("resumed at step 14"));
  EXPECT_EQ(space.table()["full"]["runs_finished"], "1");
  EXPECT_EQ(space.table()["loqt"]["runs_finished"], "1");
}

}  // namespace
}  // namespace kumiko::test
