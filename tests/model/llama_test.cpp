// SPDX-License-Identifier: Apache-2.0
#include "framework/model/llama.hpp"

#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/support/reference_llama.hpp"
#include "tests/support/tiny_model.hpp"

namespace kumiko {
namespace {

using test::random_tokens;
using test::tiny_options;
using test::TinyRun;
using test::Weights;

double relative(const at::Tensor& a, const at::Tensor& b) {
  return (at::norm(a.to(at::kDouble) - b.to(at::kDouble)) / at::norm(b.to(at::kDouble)).clamp_min(1e-12)).item<double>();
}

// Leaves under autograd: dense values of all weights of a model.
Weights leaves(Llama& model, at::ScalarType dtype = at::kDouble) {
  Weights weights;
  for (Parameter* p : model.parameters()) weights[p->name] = p->value.to(dtype).clone();
  for (Linear* linear : model.linears()) weights[linear->spec().name] = linear->effective_weight().to(dtype).clone();
  for (auto& [name, value] : weights) value.set_requires_grad(true);
  return weights;
}

struct Batch {
  at::Tensor tokens, targets;
};

Batch make_batch(const ModelOptions& options, std::int64_t rows = 3, std::int64_t length = 17) {
  const at::Tensor stream = random_tokens(rows, length + 1, options.vocab_size, 5);
  Batch batch{stream.narrow(1, 0, length).contiguous(), stream.narrow(1, 1, length).contiguous()};
  batch.targets.select(0, 0).narrow(0, length - 4, 4).fill_(-100);   // some padding
  return batch;
}

struct Case {
  const char* name;
  std::int64_t n_kv_heads;
  bool tied;
  Recompute recompute;
  bool documents;
};

class LlamaGradients : public ::testing::TestWithParam<Case> {};

TEST_P(LlamaGradients, EqualAutogradOfTheTextbookModel) {
  ModelOptions options = tiny_options();
  options.n_kv_heads = GetParam().n_kv_heads;
  options.tie_embeddings = GetParam().tied;
  ComputeOptions compute;
  compute.recompute = GetParam().recompute;
  compute.document_end = GetParam().documents ? 2 : -1;
  TinyRun run("full", "", options, compute);
  Batch batch = make_batch(options);
  at::Tensor allowed;
  if (GetParam().documents) {
    batch.tokens.select(1, 6).fill_(2);
    allowed = at::ones({17, 17}, at::kBool).tril().repeat({3, 1, 1});
    const auto ends = batch.tokens.eq(2);
    for (std::int64_t b = 0; b < 3; ++b) {
      for (std::int64_t i = 0; i < 17; ++i) {
        for (std::int64_t j = 0; j < i; ++j) {
          for (std::int64_t e = j; e < i; ++e) {
            if (ends[b][e].item<bool>()) allowed[b][i][j] = false;
          }
        }
      }
    }
  }
  Weights weights = leaves(*run.model);
  const at::Tensor expected = test::reference_loss_sum(options, weights, batch.tokens, batch.targets, allowed);
  (expected * 0.25).backward();

  const at::Tensor loss = run.model->forward_backward(batch.tokens, batch.targets, 0.25, BackwardMode::update);
  EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-4 * expected.item<double>());
  for (Parameter* p : run.model->parameters()) {
    std::string key = p->name;
    if (p->role == ParamRole::matrix) key = key.substr(0, key.size() - std::string(".weight").size());
    EXPECT_LT(relative(p->grad, weights.at(key).grad()), 2e-5) << p->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, LlamaGradients,
                         ::testing::Values(Case{"grouped", 2, false, Recompute::none, false}, Case{"full_heads", 4, false, Recompute::none, false},
                                           Case{"tied", 1, true, Recompute::none, false}, Case{"documents", 2, false, Recompute::none, true},
                                           Case{"norm_swiglu", 2, false, Recompute::norm_swiglu, false},
                                           Case{"attention", 2, false, Recompute::attention, false}, Case{"mlp", 2, false, Recompute::mlp, false},
                                           Case{"block", 2, false, Recompute::block, false}, Case{"block_documents", 4, true, Recompute::block, true}),
                         [](const auto& info) { return info.param.name; });

TEST(Llama, GradientsAddUpOverMicroBatches) {
  TinyRun run("full", "");
  const Batch batch = make_batch(tiny_options(), 4);
  run.model->forward_backward(batch.tokens, batch.targets, 0.5, BackwardMode::update);
  const at::Tensor whole = run.grads->flat().clone();
  run.grads->zero();
  for (std::int64_t i = 0; i < 4; ++i) {
    run.model->forward_backward(batch.tokens.narrow(0, i, 1), batch.targets.narrow(0, i, 1), 0.5, BackwardMode::update);
  }
  EXPECT_LT(relative(run.grads->flat(), whole), 1e-6);
}

TEST(Llama, LossAndLogitsEqualTheTextbookModel) {
  TinyRun run("full", "");
  const Batch batch = make_batch(tiny_options());
  const Weights weights = leaves(*run.model);
  const at::Tensor expected = test::reference_logits(tiny_options(), weights, batch.tokens);
  EXPECT_LT(relative(run.model->logits(batch.tokens), expected), 1e-5);
  const double loss = test::reference_loss_sum(tiny_options(), weights, batch.tokens, batch.targets).item<double>();
  EXPECT_NEAR(run.model->loss_sum(batch.tokens, batch.targets).item<double>(), loss, 1e-5 * loss);
}

TEST(Llama, CachedLogitsEqualThoseOfTheWholeSequence) {
  TinyRun run("loqt", "{rank: 8}");
  const at::Tensor tokens = random_tokens(2, 12, 61, 3);
  const at::Tensor whole = run.model->logits(tokens);
  KvCache cache;
  at::Tensor last = run.model->next_logits(tokens.narrow(1, 0, 7), cache);
  EXPECT_LT(relative(last, whole.select(1, 6)), 1e-5);
  for (std::int64_t t = 7; t < 12; ++t) {
    last = run.model->next_logits(tokens.narrow(1, t, 1), cache);
    EXPECT_LT(relative(last, whole.select(1, t)), 1e-5) << t;
  }
}

TEST(Llama, InitialLossIsNearLogVocabulary) {
  ModelOptions options = ModelOptions::from_preset("9m");
  options.vocab_size = 32000;
  TinyRun run("loqt", "", options);
  const at::Tensor stream = random_tokens(2, 65, options.vocab_size, 9);
  const double loss = run.model->loss_sum(stream.narrow(1, 0, 64), stream.narrow(1, 1, 64)).item<double>() / 128.0;
  EXPECT_NEAR(loss, std::log(32000.0), 0.15);
}

TEST(Llama, Bf16LossIsNearThatOfFp32) {
  ComputeOptions bf16;
  bf16.compute_dtype = at::kBFloat16;
  TinyRun low("full", "", tiny_options(), bf16);
  TinyRun high("full", "");
  const Batch batch = make_batch(tiny_options());
  const double a = low.model->forward_backward(batch.tokens, batch.targets, 1.0, BackwardMode::update).item<double>();
  const double b = high.model->forward_backward(batch.tokens, batch.targets, 1.0, BackwardMode::update).item<double>();
  EXPECT_NEAR(a, b, 0.01 * b);
  EXPECT_LT(relative(low.grads->flat(), high.grads->flat()), 0.05);   // bf16 keeps 8 bits
}

TEST(Llama, RefusesSequencesBeyondItsPositions) {
  TinyRun run("full", "");
  EXPECT_THROW(run.model->logits(random_tokens(1, 65, 61, 1)), UsageError);
}

struct PresetCount {
  const char* name;
  std::int64_t linear, total;
};

// Counts published with the LoQT code's configurations (vocabulary 32000).
class ModelPreset : public ::testing::TestWithParam<PresetCount> {};

TEST_P(ModelPreset, HasThePublishedParameterCount) {
  ModelOptions options = ModelOptions::from_preset(GetParam().name);
  options.vocab_size = 32000;
  EXPECT_EQ(options.linear_parameters(), GetParam().linear);
  EXPECT_EQ(options.total_parameters(), GetParam().total);
}

INSTANTIATE_TEST_SUITE_P(Sizes, ModelPreset,
                         ::testing::Values(PresetCount{"60m", 25296896, 58073600}, PresetCount{"llama-130m", 84934656, 134105856},
                                           PresetCount{"350m", 302383104, 367969280}, PresetCount{"llama-1b", 1207910400, 1339082752},
                                           PresetCount{"3b", 2521825280, 2685831680}, PresetCount{"7b", 6476005376, 6738415616},
                                           PresetCount{"13b", 12687769600, 13015864320}),
                         [](const auto& info) { return "n" + std::to_string(info.index); });

TEST(ModelOptionsParse, RefusesUnknownPresetsAndUnevenHeads) {
  const auto parse = [](const char* yaml) { return ModelOptions::parse(ConfigNode::parse_text(yaml, "r.yaml")); };
  EXPECT_EQ(parse("{preset: 60m}").hidden_size, 512);
  EXPECT_EQ(parse("{preset: llama-60m, n_layers: 2}").n_layers, 2);
  EXPECT_THROW(parse("{preset: 61m}"), UsageError);
  EXPECT_THROW(parse("{hidden_size: 100, intermediate_size: 10, n_layers: 1, n_heads: 3}"), UsageError);
  EXPECT_THROW(parse("{preset: 60m, n_kv_heads: 3}"), UsageError);
}

}  // namespace
}  // namespace kumiko
