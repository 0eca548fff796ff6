// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/files.hpp"
#include "tests/support/temp_folder.hpp"
#include "tools/ablate/chart.hpp"
#include "tools/ablate/describe.hpp"
#include "tools/ablate/report.hpp"

namespace kumiko::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

RunResult run(std::int64_t seed, double ppl) {
  RunResult result;
  result.seed = seed;
  result.finished = true;
  result.own = Perplexity{ppl, ppl - 0.5};
  result.parameters = 1000;
  return result;
}

VariantReport variant(const std::string& name, std::vector<RunResult> runs) {
  VariantReport report;
  report.name = name;
  report.planned = 3;
  report.recipe = "optimizer:\n  lr: 0.01\n";
  report.runs = std::move(runs);
  return report;
}

Report two_variants() {
  Report report;
  report.title = "title";
  report.baseline = "full";
  report.variants = {variant("full", {run(1, 20.0), run(2, 22.0), run(3, 21.0)}),
                     variant("loqt", {run(3, 21.5), run(1, 20.25), run(2, 22.75)})};
  return report;
}

TEST(Rows, PairTheRunsOfASeed) {
  const Row row = make_rows(two_variants())[1];
  EXPECT_NEAR(row.ppl.mean, 21.5, 1e-12);
  EXPECT_NEAR(row.ppl.standard_error.value(), 0.7216878365, 1e-9);  // of 20.25, 21.5, 22.75
  EXPECT_EQ(row.difference.n, 3);
  EXPECT_NEAR(row.difference.mean, 0.5, 1e-12);  // of 0.25, 0.75, 0.5
  EXPECT_NEAR(row.difference.half_width.value(), 4.30265273 * 0.25 / std::sqrt(3.0), 1e-7);
  EXPECT_NEAR(row.published.mean, 21.0, 1e-12);
}

TEST(Rows, LeaveOutOfTheDifferenceWhatOnlyOneHas) {
  Report report = two_variants();
  report.variants[1].runs = {run(2, 23.0), run(9, 100.0)};
  const Row row = make_rows(report)[1];
  EXPECT_EQ(row.difference.n, 1);
  EXPECT_DOUBLE_EQ(row.difference.mean, 1.0);
  EXPECT_FALSE(row.difference.half_width);
}

TEST(Rows, TakeALaterEvaluationForTheResult) {
  Report report = two_variants();
  for (RunResult& one : report.variants[1].runs) one.evaluated = Perplexity{30.0, 29.0};
  const Row row = make_rows(report)[1];
  EXPECT_DOUBLE_EQ(row.ppl.mean, 30.0);
  EXPECT_DOUBLE_EQ(row.published.mean, 29.0);
}

TEST(Remarks, NameWhatWasMeasuredOrTrainedOnOtherTokens) {
  Report report = two_variants();
  for (VariantReport& variant : report.variants) {
    variant.measured_on = "val.h5";
    for (RunResult& one : variant.runs) one.train_digest = one.validation_digest = "a";
  }
  EXPECT_THAT(fairness_remarks(report, {}), ::testing::IsEmpty());
  report.variants[1].runs[0].train_digest = "b";
  EXPECT_THAT(fairness_remarks(report, {}), ElementsAre(HasSubstr("training shards were made anew")));
  report.variants[1].runs[0] = report.variants[1].runs[1];
  report.variants[1].runs[0].evaluated = Perplexity{3, 3};
  report.variants[1].runs[0].evaluated_digest = "c";
  EXPECT_THAT(fairness_remarks(report, {}), ElementsAre(HasSubstr("validation shards were made anew")));
  report.variants[1].runs.clear();
  report.variants[1].measured_on = "other.h5";
  report.variants[1].recipe += "data:\n  batching: packed\n";
  EXPECT_THAT(fairness_remarks(report, {}),
              ElementsAre(HasSubstr("differs from full in data.batching"), HasSubstr("val.h5, other.h5")));
}

TEST(Results, CountOnlyWhatIsKeptAndOfTheLastStep) {
  const test::TempFolder folder;
  test::write_text(folder / "summary.json", R"({"complete": true, "validation_perplexity": 3.5})");
  EXPECT_TRUE(read_run(folder.path()).finished);
  write_failure(folder.path(), {4, "no room", "log"});
  EXPECT_FALSE(read_run(folder.path()).finished);
  EXPECT_FALSE(read_run(folder.path()).own);

  const std::string said = "step: 12\nvalidation digest: ab\nvalidation perplexity: 3.5\nppl_published_convention: 3.25\n";
  EXPECT_EQ(parse_evaluation(said, 12)->digest, "ab");
  EXPECT_EQ(parse_evaluation(said, 12)->perplexity.ppl, 3.5);
  EXPECT_FALSE(parse_evaluation(said, 13)) << "an older checkpoint";
  EXPECT_FALSE(parse_evaluation("step: 12\nvalidation perplexity: inf\nppl_published_convention: inf\n", 12));
}

TEST(Results, OfAResumedRunCoverAllItsStarts) {
  const test::TempFolder folder;
  test::write_text(folder / "summary.json", R"({"complete": true, "tokens_per_s": 900.0, "peak_memory_bytes": 50})");
  test::write_text(folder / "metrics.jsonl", R"({"step": 1, "tokens": 100, "step_seconds": 1.0, "peak_memory_bytes": 70}
{"step": 2, "tokens": 200, "step_seconds": 3.0, "peak_memory_bytes": 40}
)");
  const RunResult run = read_run(folder.path());
  EXPECT_DOUBLE_EQ(run.tokens_per_s, 50.0);
  EXPECT_EQ(run.peak_bytes, 70);
}

TEST(Rows, SayWhenARunIsNoBetterThanGuessing) {
  Report report = two_variants();
  report.variants[1].runs[0].unigram = 21.0;
  EXPECT_THAT(make_rows(report)[1].note, HasSubstr("1 run is no better than guessing"));
  EXPECT_EQ(make_rows(report)[0].note, "");
}

TEST(Tables, EscapeWhatNamesAndLogsBring) {
  Report report = two_variants();
  report.title = "<script>alert(1)</script>";
  report.variants[1].name = "a|b,\"c\"<i>";
  report.variants[1].pending = "=HYPERLINK(\"http://planted.example\")";
  report.failures = {{"x", {7, "<img src=http://planted.example/x onerror=alert(1)>", "log & more"}}};
  const std::string html = to_html(report);
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<img")));
  EXPECT_THAT(html, HasSubstr("&lt;img src=http://planted.example/x onerror=alert(1)&gt;"));
  EXPECT_THAT(html, HasSubstr("log &amp; more"));
  EXPECT_THAT(to_markdown(report), HasSubstr("| a\\|b,\"c\"\\<i\\> | 21.50 ± 0.72 | +0.50"));
  EXPECT_THAT(to_csv(report), HasSubstr("\n\"a|b,\"\"c\"\"<i>\",21.5,"));
  EXPECT_THAT(to_csv(report), HasSubstr("\"'=HYPERLINK(\"\"http://planted.example\"\")\""));
}

TEST(Ticks, StandAtRoundValues) {
  EXPECT_THAT(linear_ticks(0, 120, 6), ElementsAre(0, 20, 40, 60, 80, 100, 120));
  EXPECT_THAT(linear_ticks(2.1, 3.4, 4), ElementsAre(2.5, 3.0));
  EXPECT_THAT(log_ticks(3, 250), ElementsAre(5, 10, 20, 50, 100, 200));
}

TEST(Charts, LeaveOutWhatIsNotFinite) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Chart chart{"t",
              "step",
              "y",
              ChartScale::linear,
              ChartMarks::points,
              {{"a", 0, {{0, 5, 5, 5}, {1, nan, nan, nan}, {2, 1e300, 1e300, 1e300}, {3, 2, 2, 2}}}}};
  const std::string svg = draw(chart);
  EXPECT_THAT(svg, Not(HasSubstr("nan ")));
  EXPECT_THAT(svg, Not(HasSubstr("Lnan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  EXPECT_THAT(svg, Not(HasSubstr("e+")));
  EXPECT_THAT(svg, HasSubstr("class=\"series s0\""));
  chart.series[0].points = {{0, nan, nan, nan}};
  EXPECT_EQ(draw(chart), "");
}

}  // namespace
}  // namespace kumiko::tools
