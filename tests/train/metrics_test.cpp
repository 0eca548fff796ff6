// SPDX-License-Identifier: Apache-2.0
#include "framework/train/metrics.hpp"

#include <cmath>
#include <csignal>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "framework/core/error.hpp"
#include "tests/support/temp_folder.hpp"
#include "tests/train/sample_state.hpp"

namespace kumiko {
namespace {

using test::TempFolder;

MetricFields loss(double value) { return {{"loss", value}}; }

std::vector<std::int64_t> steps_in(const std::filesystem::path& file) {
  std::vector<std::int64_t> steps;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    steps.push_back(nlohmann::json::parse(line).at("step").get<std::int64_t>());
  return steps;
}

void write_steps(const std::filesystem::path& file, std::int64_t first, std::int64_t last,
                 std::int64_t resumed = -1) {
  MetricsLog log(file, resumed);
  for (std::int64_t step = first; step <= last; ++step) log.add(step, loss(static_cast<double>(step)));
}

TEST(MetricsLine, HoldsNumbersThatReadBackEqual) {
  const double value = 0.1 + 0.2;
  const auto line = nlohmann::json::parse(to_json_line(
      12, {{"loss", value}, {"tokens", std::int64_t{1} << 62}, {"small", 5e-324}, {"text", "a\"b\n\xff"}}));

  EXPECT_EQ(line["step"], 12);
  EXPECT_EQ(line["loss"].get<double>(), value);
  EXPECT_EQ(line["tokens"].get<std::int64_t>(), std::int64_t{1} << 62);
  EXPECT_EQ(line["small"].get<double>(), 5e-324);
  EXPECT_EQ(line["text"], "a\"b\n\xef\xbf\xbd");
}

TEST(MetricsLine, HoldsATableOfNumbers) {
  const MetricTable layers = {{"q_proj", {{"rank", 8.0}, {"error", std::nan("")}}}, {"k_proj", {{"rank", 4.0}}}};

  EXPECT_EQ(to_json_line(1, {{"layers", layers}}), R"({"step":1,"layers":{"q_proj":{"rank":8.0,"error":"nan"},"k_proj":{"rank":4.0}}})");
}

TEST(MetricsLine, StaysJsonWithoutFiniteNumbers) {
  const double inf = std::numeric_limits<double>::infinity();

  EXPECT_EQ(to_json_line(1, {{"a", std::nan("")}, {"b", inf}, {"c", -inf}}),
            R"({"step":1,"a":"nan","b":"inf","c":"-inf"})");
}

TEST(MetricsLog, WritesALineAtOnce) {
  TempFolder run;
  MetricsLog log(run / "metrics.jsonl", -1);

  log.add(10, loss(2.5));

  EXPECT_EQ(test::read_text(run / "metrics.jsonl"), "{\"step\":10,\"loss\":2.5}\n");
}

TEST(MetricsLog, JoinsAnEvaluationToItsStep) {
  TempFolder run;
  MetricsLog log(run / "metrics.jsonl", -1);

  log.add(10, loss(2.5));
  log.add(10, {{"eval_loss", 2.25}, {"loss", 2.75}});
  log.add(15, {{"eval_loss", 2.0}});
  log.add(20, loss(1.5));

  EXPECT_EQ(test::read_text(run / "metrics.jsonl"),
            "{\"step\":10,\"loss\":2.75,\"eval_loss\":2.25}\n{\"step\":15,\"eval_loss\":2.0}\n{\"step\":20,"
            "\"loss\":1.5}\n");
  EXPECT_THROW(log.add(19, loss(1.0)), c10::Error);
}

TEST(MetricsLog, JoinsAnEvaluationToALineFromBeforeTheResume) {
  TempFolder run;
  write_steps(run / "metrics.jsonl", 1, 3);

  MetricsLog log(run / "metrics.jsonl", 2);
  EXPECT_EQ(log.last_step(), 2);
  log.add(2, {{"eval_loss", 9.0}});
  log.add(3, loss(3.5));

  EXPECT_EQ(
      test::read_text(run / "metrics.jsonl"),
      "{\"step\":1,\"loss\":1.0}\n{\"step\":2,\"loss\":2.0,\"eval_loss\":9.0}\n{\"step\":3,\"loss\":3.5}\n");
}

TEST(MetricsLog, EqualsAnUnbrokenRunsAfterAnyCut) {
  TempFolder run;
  write_steps(run / "whole.jsonl", 1, 12);
  const std::string whole = test::read_text(run / "whole.jsonl");
  const std::int64_t checkpoint = 5;
  const std::size_t through_checkpoint = whole.find("{\"step\":6,");
  for (std::size_t cut = through_checkpoint; cut <= whole.size(); ++cut) {
    test::write_text(run / "cut.jsonl", whole.substr(0, cut));

    ::testing::internal::CaptureStderr();
    write_steps(run / "cut.jsonl", checkpoint + 1, 12, checkpoint);

    ASSERT_EQ(::testing::internal::GetCapturedStderr(), "");
    ASSERT_EQ(test::read_text(run / "cut.jsonl"), whole) << cut;
  }
}

TEST(MetricsLog, BeginsAnewWithoutACheckpoint) {
  TempFolder run;
  write_steps(run / "metrics.jsonl", 1, 4);

  write_steps(run / "metrics.jsonl", 1, 2);

  EXPECT_EQ(steps_in(run / "metrics.jsonl"), (std::vector<std::int64_t>{1, 2}));
}

TEST(MetricsLog, DropsLinesThatAreNoMetrics) {
  TempFolder run;
  test::write_text(run / "metrics.jsonl",
                      "{\"step\":1}\nnonsense\n\n{\"step\":2,\"step\":3}\n{\"step\":1}\n[1]\n{\"loss\":1}\n" +
                          std::string(100, '[') + "\n{\"step\":4}\n{\"step\":5");

  write_steps(run / "metrics.jsonl", 6, 7, 5);

  EXPECT_EQ(steps_in(run / "metrics.jsonl"), (std::vector<std::int64_t>{1, 4, 6, 7}));
}

TEST(MetricsLog, IsRefusedWhereItCannotBeOpened) {
  TempFolder run;

  EXPECT_THROW(MetricsLog(run / "none" / "metrics.jsonl", -1), UsageError);
}

TEST(MetricsLog, KeepsLinesThatAFullDiskRefusesUntilThereIsRoom) {
  TempFolder run;
  const auto file = run / "metrics.jsonl";
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    struct rlimit whole {};
    ::getrlimit(RLIMIT_FSIZE, &whole);
    const struct rlimit small { 60, whole.rlim_max };
    MetricsLog log(file, -1);
    for (std::int64_t step = 1; step <= 30; ++step) {
      if (step == 2) ::setrlimit(RLIMIT_FSIZE, &small);
      if (step == 20) {
        const auto steps = steps_in(file);  // throws at a torn line
        if (steps.empty() || steps.size() > 5) ::_exit(1);
        ::setrlimit(RLIMIT_FSIZE, &whole);
      }
      log.add(step, loss(1.0));
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);

  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(steps_in(file).size(), 30u);
}

}  // namespace
}  // namespace kumiko
