// SPDX-License-Identifier: Apache-2.0
#include "framework/train/train_options.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko {
namespace {

using ::testing::HasSubstr;

template <class Options>
Options parsed(const std::string& yaml) {
  const auto node = ConfigNode::parse_text(yaml, "r.yaml");
  auto options = Options::parse(node);
  node.finish();
  return options;
}

TrainOptions train(const std::string& yaml) { return parsed<TrainOptions>(yaml); }

TEST(TrainOptions, HaveDefaults) {
  const TrainOptions options = train("{}");
  EXPECT_EQ(options.steps, 10000);
  EXPECT_EQ(options.global_batch_size, 512);
  EXPECT_EQ(options.micro_batch_size, std::nullopt);
  EXPECT_EQ(options.precision, Precision::bf16);
  EXPECT_EQ(options.param_dtype, at::kFloat);
  EXPECT_EQ(options.grad_clip, 0.0);
  EXPECT_EQ(options.recompute, Recompute::none);
  EXPECT_EQ(options.seed, 42U);
  EXPECT_FALSE(options.deterministic);
  EXPECT_EQ(options.device, "auto");
  EXPECT_EQ(options.threads, std::nullopt);
  EXPECT_EQ(options.max_non_finite_steps, 5);
  EXPECT_FALSE(options.per_layer_updates);
}

TEST(TrainOptions, ReadEveryKey) {
  const TrainOptions options = train(
      "{steps: 7, global_batch_size: 24, micro_batch_size: 3, precision: fp32, param_dtype: bf16, grad_clip: "
      "0.5, recompute: mlp, "
      "seed: 9, deterministic: true, device: cpu, threads: 2, max_non_finite_steps: 1}");
  EXPECT_EQ(options.steps, 7);
  EXPECT_EQ(options.global_batch_size, 24);
  EXPECT_EQ(options.micro_batch_size, 3);
  EXPECT_EQ(options.precision, Precision::fp32);
  EXPECT_EQ(options.param_dtype, at::kBFloat16);
  EXPECT_EQ(options.grad_clip, 0.5);
  EXPECT_EQ(options.recompute, Recompute::mlp);
  EXPECT_EQ(options.seed, 9U);
  EXPECT_TRUE(options.deterministic);
  EXPECT_EQ(options.device, "cpu");
  EXPECT_EQ(options.threads, 2);
  EXPECT_EQ(options.max_non_finite_steps, 1);
}

TEST(TrainOptions, RefuseWhatUpdatesByLayerCannotDo) {
  EXPECT_TRUE(train("{per_layer_updates: true}").per_layer_updates);
  const auto refusal = [](const char* yaml) -> std::string {
    try {
      train(yaml);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(refusal("{per_layer_updates: true, grad_clip: 1.0}"), HasSubstr("cannot go with train.grad_clip 1"));
  EXPECT_THAT(refusal("{per_layer_updates: true, precision: fp16}"), HasSubstr("cannot go with train.precision fp16"));
}

TEST(TrainOptions, KnowEveryWord) {
  EXPECT_EQ(train("{precision: fp32}").compute_dtype(), at::kFloat);
  EXPECT_EQ(train("{precision: bf16}").compute_dtype(), at::kBFloat16);
  EXPECT_EQ(train("{precision: fp16}").compute_dtype(), at::kHalf);
  EXPECT_EQ(train("{param_dtype: fp32}").param_dtype, at::kFloat);
  EXPECT_EQ(train("{param_dtype: bf16}").param_dtype, at::kBFloat16);
  EXPECT_EQ(train("{recompute: none}").recompute, Recompute::none);
  EXPECT_EQ(train("{recompute: norm_swiglu}").recompute, Recompute::norm_swiglu);
  EXPECT_EQ(train("{recompute: attention}").recompute, Recompute::attention);
  EXPECT_EQ(train("{recompute: mlp}").recompute, Recompute::mlp);
  EXPECT_EQ(train("{recompute: block}").recompute, Recompute::block);
  EXPECT_EQ(train("{device: auto}").device, "auto");
  EXPECT_EQ(train("{micro_batch_size: auto, threads: auto}").micro_batch_size, std::nullopt);
}

struct Bad {
  const char* name;
  const char* yaml;
  std::vector<std::string> says;
};

class BadTrainOptions : public ::testing::TestWithParam<Bad> {};

TEST_P(BadTrainOptions, AreRefusedWithTheirPlace) {
  try {
    train(GetParam().yaml);
    FAIL() << GetParam().yaml << " passed";
  } catch (const UsageError& error) {
    for (const auto& part : GetParam().says) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Keys, BadTrainOptions,
    ::testing::Values(Bad{"precision",
                          "{seed: 1,\n precision: bf61}",
                          {"r.yaml:2:", "precision", "'bf61'", "fp32, bf16, fp16", "did you mean 'bf16'"}},
                      Bad{"param_dtype", "{param_dtype: fp16}", {"r.yaml:1:", "param_dtype", "fp32, bf16"}},
                      Bad{"recompute",
                          "{recompute: all}",
                          {"recompute", "'all'", "none, norm_swiglu, attention, mlp, block"}},
                      Bad{"device", "{device: tpu}", {"device", "'tpu'", "auto, cpu"}},
                      Bad{"steps", "{steps: 0}", {"r.yaml:1:", "steps", "0"}},
                      Bad{"batch", "{global_batch_size: -4}", {"global_batch_size", "-4"}},
                      Bad{"micro", "{micro_batch_size: some}", {"micro_batch_size", "some"}},
                      Bad{"micro_zero", "{micro_batch_size: 0}", {"micro_batch_size", "0"}},
                      Bad{"clip", "{grad_clip: -1}", {"grad_clip", "-1"}},
                      Bad{"clip_nan", "{grad_clip: .nan}", {"grad_clip"}},
                      Bad{"seed", "{seed: -1}", {"seed", "-1"}},
                      Bad{"deterministic", "{deterministic: 1}", {"deterministic", "true"}},
                      Bad{"threads", "{threads: 0}", {"threads", "0"}},
                      Bad{"non_finite", "{max_non_finite_steps: 0}", {"max_non_finite_steps", "0"}},
                      Bad{"unknown", "{grad_clp: 1}", {"grad_clp", "grad_clip"}}),
    [](const auto& info) { return info.param.name; });

TEST(EvalOptions, ParseAndRefuse) {
  EXPECT_EQ(parsed<EvalOptions>("{}").every, 1000);
  EXPECT_EQ(parsed<EvalOptions>("{}").tokens, 10'000'000);
  EXPECT_EQ(parsed<EvalOptions>("{every: 0}").every, 0);  // only at the end
  EXPECT_EQ(parsed<EvalOptions>("{tokens: 1_000}").tokens, 1000);
  EXPECT_THROW(parsed<EvalOptions>("{every: -1}"), UsageError);
  EXPECT_THROW(parsed<EvalOptions>("{tokens: 0}"), UsageError);
  EXPECT_THROW(parsed<EvalOptions>("{token: 5}"), UsageError);
}

TEST(LogOptions, ParseAndRefuse) {
  EXPECT_EQ(parsed<LogOptions>("{}").every, 10);
  EXPECT_TRUE(parsed<LogOptions>("{}").tensorboard);
  EXPECT_EQ(parsed<LogOptions>("{every: 3}").every, 3);
  EXPECT_FALSE(parsed<LogOptions>("{tensorboard: false}").tensorboard);
  EXPECT_THROW(parsed<LogOptions>("{every: 0}"), UsageError);
  EXPECT_THROW(parsed<LogOptions>("{tensorboard: maybe}"), UsageError);
}

}  // namespace
}  // namespace kumiko
