// SPDX-License-Identifier: Apache-2.0
#include "framework/train/evaluate.hpp"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/corpus.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko {
namespace {

using test::TempFolder;

std::vector<std::vector<std::int32_t>> documents(int count) {
  std::vector<std::vector<std::int32_t>> result;
  for (int i = 0; i < count; ++i) {
    std::vector<std::int32_t> ids(1 + mix64(static_cast<std::uint64_t>(i) + 77) % 23);
    for (std::size_t j = 0; j < ids.size(); ++j)
      ids[j] = static_cast<std::int32_t>(3 + mix64(static_cast<std::uint64_t>(i) * 100 + j) % 350);
    result.push_back(ids);
  }
  return result;
}

ModelOptions options() {
  ModelOptions result = test::tiny_options();
  result.vocab_size = test::small_tokenizer().vocab_size();
  return result;
}

class Evaluate : public ::testing::TestWithParam<data::Batching> {
 protected:
  Evaluate() : set_(make(folder_)), run_("loqt", "{rank: 8}", options()) { at::set_num_threads(1); }

  static data::ShardSet make(const TempFolder& folder) {
    test::write_shard(folder / "a.h5", documents(31));
    return data::ShardSet::open({folder / "a.h5"});
  }
  data::DataOptions data() const { return {.sequence_length = 12, .batching = GetParam()}; }
  data::EvaluationCursor cursor(std::int64_t max_tokens = 0, int rank = 0, int ranks = 1) const {
    return {set_, data(), {.batch_size = 4, .max_tokens = max_tokens, .rank = rank, .ranks = ranks}};
  }
  // Negative log likelihood of each target, one by one, from the logits.
  std::vector<double> token_losses(const data::Batch& batch) const {
    const at::Tensor logits = run_.model->logits(batch.tokens).to(at::kDouble).log_softmax(-1);
    std::vector<double> losses;
    for (std::int64_t b = 0; b < batch.targets.size(0); ++b) {
      for (std::int64_t t = 0; t < batch.targets.size(1); ++t) {
        const auto target = batch.targets[b][t].item<std::int64_t>();
        if (target != data::kNoTarget) losses.push_back(-logits[b][t][target].item<double>());
      }
    }
    return losses;
  }

  TempFolder folder_;
  data::ShardSet set_;
  test::TinyRun run_;
};

TEST_P(Evaluate, IsTheMeanOverAllTokens) {
  auto batches = cursor();
  double sum = 0.0, batch_means = 0.0;
  std::int64_t tokens = 0, count = 0;
  while (const auto batch = batches.next()) {
    double of_batch = 0.0;
    const auto losses = token_losses(*batch);
    for (const double loss : losses) of_batch += loss;
    sum += of_batch;
    tokens += static_cast<std::int64_t>(losses.size());
    batch_means += of_batch / static_cast<double>(losses.size());
    ++count;
  }
  ASSERT_GT(count, 4);
  const auto comm = dist::make_solo();
  const EvalReport report = evaluate(*run_.model, batches, *comm);  // rewinds what was read above
  EXPECT_EQ(report.tokens, tokens);
  EXPECT_NEAR(report.loss, sum / static_cast<double>(tokens), 1e-5);
  EXPECT_DOUBLE_EQ(report.ppl, std::exp(report.loss));
  EXPECT_NEAR(report.ppl_published_convention / std::exp(batch_means / static_cast<double>(count + 1)), 1.0,
              1e-5);
  EXPECT_LT(report.ppl_published_convention, report.ppl);
  // Batches differ in their counts, so that the mean of means is told from the mean over tokens.
  EXPECT_GT(std::abs(batch_means / static_cast<double>(count) - report.loss), 1e-4);
}

TEST_P(Evaluate, EndsAtTheTokensAsked) {
  auto some = cursor(100);
  const auto comm = dist::make_solo();
  EXPECT_EQ(evaluate(*run_.model, some, *comm).tokens, 100);
}

// 1, 2 and 3 ranks take turns at batches whose number fits none but one.
TEST_P(Evaluate, GivesTheSameBitsOnAnyNumberOfRanks) {
  for (const std::int64_t max_tokens : {0, 150}) {
    auto all = cursor(max_tokens);
    const auto solo = dist::make_solo();
    const EvalReport one = evaluate(*run_.model, all, *solo);
    for (const int ranks : {2, 3}) {
      dist::run_thread_group(ranks, [&](dist::Communicator& comm) {
        at::set_num_threads(1);
        auto share = cursor(max_tokens, comm.rank(), comm.size());
        const EvalReport report = evaluate(*run_.model, share, comm);
        EXPECT_EQ(report.tokens, one.tokens);
        EXPECT_EQ(report.loss, one.loss) << ranks << " ranks";
        EXPECT_EQ(report.ppl, one.ppl);
        EXPECT_EQ(report.ppl_published_convention, one.ppl_published_convention) << ranks << " ranks";
      });
    }
  }
}

TEST_P(Evaluate, TouchesNoStateOfARun) {
  test::RigOptions rig_options{
      .method = "loqt", .method_yaml = "{rank: 8, schedule: {kind: static, tau: 3}}", .model = options()};
  test::Rig plain(rig_options);
  test::Rig watched(rig_options);
  auto batches = cursor();
  const auto comm = dist::make_solo();
  std::vector<double> losses;
  for (int i = 0; i < 8; ++i) {  // also right before and right behind merges
    const auto before = watched.state();
    losses.push_back(evaluate(*watched.run.model, batches, *comm).loss);
    EXPECT_EQ(evaluate(*watched.run.model, batches, *comm).loss, losses.back());  // from the beginning again
    test::expect_same_state(watched.state(), before);
    test::expect_same_report(watched.trainer.step(), plain.trainer.step());
  }
  test::expect_same_state(watched.state(), plain.state());
  EXPECT_NE(losses.back(), losses.front());
}

INSTANTIATE_TEST_SUITE_P(Batchings, Evaluate,
                         ::testing::Values(data::Batching::packed, data::Batching::padded),
                         [](const auto& info) {
                           return info.param == data::Batching::packed ? "packed" : "padded";
                         });

}  // namespace
}  // namespace kumiko
