// SPDX-License-Identifier: Apache-2.0
#include "framework/train/generate.hpp"

#include <cmath>
#include <numeric>
#include <set>

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/support/tiny_model.hpp"

namespace kumiko {
namespace {

using Tokens = std::vector<std::int32_t>;
using ::testing::HasSubstr;

constexpr std::int32_t kNoEos = -1;

const LanguageModel& model() {
  static const test::TinyRun run("full", "");
  return *run.model;
}

at::Tensor row(const Tokens& tokens) {
  return at::tensor(std::vector<std::int64_t>(tokens.begin(), tokens.end()), at::kLong).unsqueeze(0);
}

// The likeliest token each time, from the whole sequence and without a cache.
Tokens greedy(Tokens sequence, std::int64_t count, std::int64_t vocab_limit = 0) {
  Tokens result;
  for (std::int64_t i = 0; i < count; ++i) {
    at::Tensor logits = model().logits(row(sequence))[0][-1];
    if (vocab_limit > 0) logits = logits.narrow(0, 0, vocab_limit);
    result.push_back(static_cast<std::int32_t>(logits.argmax().item<std::int64_t>()));
    sequence.push_back(result.back());
  }
  return result;
}

class Generate : public ::testing::Test {
 protected:
  Generate() { at::set_num_threads(1); }
  const Tokens prompt_ = {5, 17, 41, 3};
};

TEST_F(Generate, TakesTheLikeliestTokensAtTemperatureZero) {
  EXPECT_EQ(generate(model(), prompt_, kNoEos, {.max_tokens = 20, .temperature = 0.0}), greedy(prompt_, 20));
}

TEST_F(Generate, TakesTheLikeliestTokensAmongOne) {
  EXPECT_EQ(generate(model(), prompt_, kNoEos, {.max_tokens = 20, .temperature = 5.0, .top_k = 1}),
            greedy(prompt_, 20));
  EXPECT_EQ(
      generate(model(), prompt_, kNoEos, {.max_tokens = 20, .temperature = 5.0, .top_k = 0, .top_p = 1e-9}),
      greedy(prompt_, 20));
}

TEST_F(Generate, DependsOnTheSeedOnly) {
  SampleOptions options{.max_tokens = 30, .temperature = 1.5, .top_k = 0};
  std::set<Tokens> texts;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    options.seed = seed;
    const Tokens text = generate(model(), prompt_, kNoEos, options);
    EXPECT_EQ(text.size(), 30U);
    EXPECT_EQ(generate(model(), prompt_, kNoEos, options), text);
    texts.insert(text);
  }
  EXPECT_EQ(texts.size(), 8U);
}

TEST_F(Generate, NeverDrawsIdsBeyondTheVocabularyLimit) {
  const auto highest = [](const Tokens& tokens) { return *std::max_element(tokens.begin(), tokens.end()); };
  SampleOptions options{.max_tokens = 50, .temperature = 3.0, .top_k = 0};
  EXPECT_GE(highest(generate(model(), prompt_, kNoEos, options)), 9);
  options.vocab_limit = 9;
  EXPECT_LT(highest(generate(model(), prompt_, kNoEos, options)), 9);
  options.temperature = 0.0;
  EXPECT_EQ(generate(model(), prompt_, kNoEos, options), greedy(prompt_, 50, 9));
}

TEST_F(Generate, StopsBeforeTheEndOfText) {
  const Tokens all = greedy(prompt_, 20);
  const std::int32_t eos = all[7];
  const auto first = std::find(all.begin(), all.end(), eos);
  EXPECT_EQ(generate(model(), prompt_, eos, {.max_tokens = 20, .temperature = 0.0}),
            Tokens(all.begin(), first));
}

TEST_F(Generate, TellsEachTokenAsItComes) {
  Tokens heard;
  const auto all = generate(model(), prompt_, kNoEos, {.max_tokens = 12, .temperature = 0.9},
                            [&heard](std::int32_t token) { heard.push_back(token); });
  EXPECT_EQ(heard, all);
  EXPECT_EQ(all.size(), 12U);
}

TEST_F(Generate, KeepsTheEndOfAPromptThatIsTooLong) {
  Tokens prompt(100);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<std::int32_t>(mix64(i + 3) % 61);
  const SampleOptions options{.max_tokens = 20, .temperature = 0.0};
  const Tokens end(prompt.end() - 44, prompt.end());  // 64 positions less 20 new tokens
  const Tokens text = generate(model(), prompt, kNoEos, options);
  EXPECT_EQ(text, greedy(end, 20));
  EXPECT_EQ(generate(model(), end, kNoEos, options), text);
}

TEST_F(Generate, RefusesAnEmptyPromptAndAnEndlessText) {
  try {
    generate(model(), {}, kNoEos, {});
    FAIL() << "an empty prompt passed";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("the prompt is empty"));
  }
  try {
    generate(model(), prompt_, kNoEos, {.max_tokens = 64});
    FAIL() << "a text beyond the positions passed";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("max_tokens 64"));
    EXPECT_THAT(error.what(), HasSubstr("64 positions"));
  }
  EXPECT_EQ(generate(model(), prompt_, kNoEos, {.max_tokens = 63, .temperature = 0.0}).size(), 63U);
}

// How often each id is drawn when `uniform` runs evenly over [0, 1).
std::vector<double> shares(const at::Tensor& logits, const SampleOptions& options) {
  constexpr int kDraws = 20000;
  std::vector<double> result(static_cast<std::size_t>(logits.numel()), 0.0);
  for (int i = 0; i < kDraws; ++i)
    result[static_cast<std::size_t>(sample_token(logits, options, (i + 0.5) / kDraws))] += 1.0 / kDraws;
  return result;
}

void expect_shares(const std::vector<double>& got, const std::vector<double>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(got[i], expected[i], 2e-4) << "id " << i;
}

struct Draw {
  const char* name;
  SampleOptions options;
  std::vector<double> expected;
};

class SampleToken : public ::testing::TestWithParam<Draw> {};

// Of the probabilities .15, .5, .05, .3.
TEST_P(SampleToken, DrawsInProportion) {
  const at::Tensor logits = at::tensor({0.15F, 0.5F, 0.05F, 0.3F}).log() + 3.0;
  expect_shares(shares(logits, GetParam().options), GetParam().expected);
}

double squared(double p) { return p * p / (0.15 * 0.15 + 0.5 * 0.5 + 0.05 * 0.05 + 0.3 * 0.3); }

INSTANTIATE_TEST_SUITE_P(
    Options, SampleToken,
    ::testing::Values(
        Draw{"softmax", {.temperature = 1.0, .top_k = 0}, {0.15, 0.5, 0.05, 0.3}},
        Draw{"top_k_beyond", {.temperature = 1.0, .top_k = 50}, {0.15, 0.5, 0.05, 0.3}},
        Draw{"colder",
             {.temperature = 0.5, .top_k = 0},
             {squared(0.15), squared(0.5), squared(0.05), squared(0.3)}},
        Draw{"top_k", {.temperature = 1.0, .top_k = 2}, {0.0, 0.625, 0.0, 0.375}},
        Draw{"top_p",
             {.temperature = 1.0, .top_k = 0, .top_p = 0.9},
             {0.15 / 0.95, 0.5 / 0.95, 0.0, 0.3 / 0.95}},
        Draw{"top_p_within_the_second",
             {.temperature = 1.0, .top_k = 0, .top_p = 0.6},
             {0.0, 0.625, 0.0, 0.375}},
        Draw{"top_p_within_the_first", {.temperature = 1.0, .top_k = 0, .top_p = 0.4}, {0.0, 1.0, 0.0, 0.0}},
        Draw{"greedy", {.temperature = 0.0, .top_k = 0}, {0.0, 1.0, 0.0, 0.0}}),
    [](const auto& info) { return info.param.name; });

TEST(SampleTokenFrequencies, FollowTheSoftmaxOfManyLogits) {
  at::Tensor logits = at::empty({200}, at::kFloat);
  fill_normal(logits, 2.0, 11);
  const at::Tensor expected = logits.to(at::kDouble).softmax(0);
  expect_shares(shares(logits, {.temperature = 1.0, .top_k = 0}),
                {expected.data_ptr<double>(), expected.data_ptr<double>() + expected.numel()});
}

TEST(SampleTokenFrequencies, KeepWithinTheEndsOfTheUnitInterval) {
  const at::Tensor logits = at::tensor({0.0F, 1.0F, -200.0F});
  EXPECT_EQ(sample_token(logits, {.temperature = 1.0, .top_k = 0}, 0.0), 1);
  EXPECT_EQ(sample_token(logits, {.temperature = 1.0, .top_k = 0}, 1.0 - 0x1p-53),
            0);  // not the impossible one
}

}  // namespace
}  // namespace kumiko
