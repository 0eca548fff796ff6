// SPDX-License-Identifier: Apache-2.0
#include "framework/train/progress.hpp"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kumiko {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::int64_t kMiB = 1 << 20;

StepLine full_line() {
  return {.step = 120,
          .total = 1000,
          .loss = 4.21034,
          .ppl = 67.38,
          .lr = 0.01,
          .grad_norm = 0.834,
          .tokens_per_s = 12345.0,
          .mfu = 0.41,
          .memory_bytes = 1229 * kMiB,
          .peak_bytes = 1434 * kMiB,
          .merges = 3,
          .eta_seconds = 200.0};
}

TEST(FormatStep, PrintsEverythingInOneLine) {
  EXPECT_EQ(format_step(full_line()),
            "step  120/1000 | loss 4.2103 | ppl 67.4 | lr 1.0e-02 | grad 0.83 | 12.3k tok/s | mfu 41 % | mem "
            "1.2/1.4 GiB | "
            "merges 3 | eta 3m 20s");
}

TEST(FormatStep, LeavesOutWhatIsNotKnown) {
  EXPECT_EQ(format_step({.step = 5, .total = 10, .loss = 1.0}), "step  5/10 | loss 1.0000");
}

TEST(FormatStep, PrintsNumbersOfAnySize) {
  StepLine line = full_line();
  line.loss = std::nan("");
  line.ppl = std::numeric_limits<double>::infinity();
  line.grad_norm = 3.2e-5;
  line.tokens_per_s = 1.5e6;
  line.mfu = 0.0213;
  line.memory_bytes = 500;
  line.peak_bytes = std::nullopt;

  EXPECT_THAT(
      format_step(line),
      HasSubstr(
          "loss nan | ppl inf | lr 1.0e-02 | grad 3.20e-05 | 1.50M tok/s | mfu 2.1 % | mem 500/500 B |"));

  line.ppl = 31999.6;
  line.grad_norm = 1e300;
  line.tokens_per_s = 87.0;
  line.memory_bytes = 20 * kMiB;
  line.peak_bytes = 1010 * kMiB;
  EXPECT_THAT(format_step(line),
              HasSubstr("ppl 32000 | lr 1.0e-02 | grad 1.00e+300 | 87 tok/s | mfu 2.1 % | mem 0.0/1.0 GiB"));
}

TEST(FormatBar, FillsWithTheShareDone) {
  EXPECT_EQ(format_bar(0, 10, 16), "[..........] 0 %");
  EXPECT_EQ(format_bar(5, 10, 17), "[#####.....] 50 %");
  EXPECT_EQ(format_bar(10, 10, 18), "[##########] 100 %");
  EXPECT_EQ(format_bar(12, 10, 18), "[##########] 100 %");
  EXPECT_EQ(format_bar(0, 0, 16), "[..........] 0 %");
}

std::string printed(Progress::Style style, const std::function<void(Progress&)>& body) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress(1000, style);
    body(progress);
  }
  return ::testing::internal::GetCapturedStderr();
}

TEST(Progress, PrintsPlainLinesWithoutATerminal) {
  const std::string text = printed(Progress::Style::automatic, [](Progress& progress) {
    progress.advance(119);
    progress.step(full_line());
    progress.message("saved");
  });

  EXPECT_EQ(text, format_step(full_line()) + "\nsaved\n");
}

TEST(Progress, DrawsOneLineOverAgainOnATerminal) {
  const std::string text = printed(Progress::Style::bar, [](Progress& progress) {
    progress.step(full_line());
    progress.message("saved");
    progress.finish();
  });

  EXPECT_THAT(text, HasSubstr("\r\033[K[##.................] 12 % step  120/1000 | loss 4.2103"));
  EXPECT_THAT(text, HasSubstr("\r\033[Ksaved\n"));
  EXPECT_TRUE(text.ends_with("\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
}

TEST(Progress, DrawsAtMostTenTimesASecond) {
  const std::string text = printed(Progress::Style::bar, [](Progress& progress) {
    for (int step = 0; step < 1000; ++step) progress.advance(step);
  });

  EXPECT_LT(std::count(text.begin(), text.end(), '\r'), 12);
}

}  // namespace
}  // namespace kumiko
