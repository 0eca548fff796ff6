// SPDX-License-Identifier: Apache-2.0
// The page in a browser, and 'kumiko report' over run folders.
#include <cstdlib>
#include <regex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/integration/sweep_space.hpp"

namespace kumiko::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::size_t count(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  return static_cast<std::size_t>(
      std::distance(std::sregex_iterator(text.begin(), text.end(), regex), std::sregex_iterator()));
}

bool has_chromium() { return std::system("command -v chromium > /dev/null 2>&1") == 0; }

// Three runs with little training, and one that fails with markup in its reason.
class Page : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    space_ = std::make_unique<SweepSpace>(R"(
# <img src="http://planted.example/sweep.png">
recipe: {train: {steps: 12, global_batch_size: 8, threads: 1}, eval.every: 4, log.every: 1, log.tensorboard: false}
variants:
  full: {method: {name: full}}
  loqt: {}
  torn: {data.validation: '<img src=x>'}
seeds: [1, 2]
)");
    // The space's own block `recipe` would be a second one.
    std::string text = read_text(*space_ / "sweep.yaml");
    text = "base: recipe.yaml\noutput_dir: out\n" + text.substr(text.find("\n# <img"));
    write_text(*space_ / "sweep.yaml", text);
    write_text(*space_ / "<img src=x>", "no shard");
    result_ = space_->ablate({"-j", "2"});
  }
  static void TearDownTestSuite() { space_.reset(); }

  static std::unique_ptr<SweepSpace> space_;
  static Finished result_;
};
std::unique_ptr<SweepSpace> Page::space_;
Finished Page::result_;

TEST_F(Page, ShowsRowsAndCurvesInABrowserAndAsksForNothing) {
  if (!has_chromium()) GTEST_SKIP() << "chromium is not installed";
  ASSERT_EQ(result_.exit_code, 3) << result_.output;
  const Finished browser =
      run_command({"chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update",
                   "--user-data-dir=" + (*space_ / "profile").string(),
                   "--log-net-log=" + (*space_ / "net.json").string(), "--dump-dom",
                   "file://" + (*space_ / "out/report.html").string()},
                  space_->path());
  const std::string dom =
      browser.output.substr(std::min(browser.output.find("<!DOCTYPE"), browser.output.size()));
  const std::string results =
      dom.substr(dom.find("id=\"results\""), dom.find("</table>") - dom.find("id=\"results\""));
  EXPECT_EQ(count(results, "<tr"), 4U) << "a head and three variants";
  for (const char* name : {"full", "loqt", "torn"})
    EXPECT_THAT(results, HasSubstr("<td>" + std::string(name) + "</td>"));
  EXPECT_EQ(count(dom, "<svg "), 2U);
  EXPECT_EQ(count(dom, "<path class=\"line\" d=\"M[0-9]"), 4U) << "two variants in two charts";
  EXPECT_EQ(count(dom, "<circle "), 6U) << "two variants evaluated at three steps";
  EXPECT_THAT(dom, HasSubstr("torn/fixed/seed-2"));
  EXPECT_EQ(count(dom, "<(img|script|link|iframe|object|image|use)[ >]"), 0U);
  EXPECT_THAT(dom, AllOf(HasSubstr("&lt;img src=\"http://planted.example"), HasSubstr("&lt;img src=x&gt;")));
  EXPECT_EQ(count(dom, "<[a-z]+[^>]*\\s(src|href|srcset|background|data)="), 0U);
  EXPECT_EQ(count(dom, "url\\((?!#|\"#)"), 0U);
  const std::string requests = read_text(*space_ / "net.json");
  EXPECT_THAT(requests, HasSubstr("constants")) << "the browser kept no log";
  EXPECT_THAT(requests, Not(HasSubstr("planted.example")));
}

TEST_F(Page, ComesForAnyRunFoldersToo) {
  const std::string runs = "out/runs/";
  const Finished result = space_->kumiko({"report", runs + "loqt/fixed/seed-1", runs + "full/fixed/seed-1",
                                          runs + "full/fixed/seed-2", runs + "loqt/fixed/seed-2",
                                          "--baseline", "full/fixed", "--output", "rep"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  auto own = space_->timeless_table();
  auto rows = space_->timeless_table("rep");
  ASSERT_EQ(rows.size(), 2U) << result.output;
  for (const char* column : {"ppl_mean", "ppl_standard_error", "difference_mean", "difference_low",
                             "difference_n", "trained_parameters", "paper_bytes", "merges"}) {
    EXPECT_EQ(rows["loqt/fixed"][column], own["loqt"][column]) << column;
  }
  EXPECT_THAT(read_text(*space_ / "rep/report.html"), HasSubstr("class=\"line\""));
}

TEST_F(Page, IsRefusedForWhatIsNoRun) {
  expect_refusal(space_->kumiko({"report", "corpus"}), 2, {"'corpus' is no run folder", "kumiko train"});
  const std::string run = "out/runs/full/fixed/seed-1";
  expect_refusal(space_->kumiko({"report", run, run + "/."}), 2, {"is given twice"});
  expect_refusal(space_->kumiko({"report", run, "--baseline", "lora"}), 2,
                 {"no variant is named 'lora'", "known: fixed"});
  expect_refusal(space_->kumiko({"report", run, "--output", "recipe.yaml"}), 2,
                 {"cannot write the report", "another --output"});
}

}  // namespace
}  // namespace kumiko::test
