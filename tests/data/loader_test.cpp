// SPDX-License-Identifier: Apache-2.0
#include "data/loader.hpp"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/permutation.hpp"
#include "framework/core/error.hpp"
#include "framework/core/state.hpp"
#include "tests/support/corpus.hpp"
#include "tests/support/memory_state.hpp"

namespace kumiko::data {
namespace {

using test::message_of;
using test::TempFolder;
using ::testing::HasSubstr;

using Row = std::vector<std::int64_t>;  // the tokens of one sample, padding left out

// Documents of 1 to 40 tokens, each token of the stream different from its neighbours.
std::vector<std::vector<std::int32_t>> made_up_documents(int count, std::uint64_t seed = 1) {
  std::vector<std::vector<std::int32_t>> documents;
  std::int32_t next = 10;
  for (int i = 0; i < count; ++i) {
    std::vector<std::int32_t> ids(1 + mix64(seed * 1000 + static_cast<std::uint64_t>(i)) % 40);
    for (std::int32_t& id : ids) id = 10 + (next++ % 340);
    documents.push_back(ids);
  }
  return documents;
}

struct Corpus {
  TempFolder folder;
  ShardSet set;
  explicit Corpus(int documents) : set(make(folder, documents)) {}
  static ShardSet make(const TempFolder& folder, int documents) {
    test::write_shard(folder / "a.h5", made_up_documents(documents / 2, 1));
    test::write_shard(folder / "b.h5", made_up_documents(documents - documents / 2, 2));
    return ShardSet::open({folder / "a.h5", folder / "b.h5"});
  }
};

// inputs plus last target of each row.
std::vector<Row> rows_of(const std::vector<Batch>& batches) {
  std::vector<Row> rows;
  for (const Batch& batch : batches) {
    for (std::int64_t b = 0; b < batch.tokens.size(0); ++b) {
      const auto* tokens = batch.tokens[b].data_ptr<std::int64_t>();
      const auto* targets = batch.targets[b].data_ptr<std::int64_t>();
      Row row;
      for (std::int64_t t = 0; t < batch.tokens.size(1) && targets[t] != kNoTarget; ++t)
        row.push_back(tokens[t]);
      row.push_back(targets[static_cast<std::int64_t>(row.size()) - 1]);
      rows.push_back(row);
    }
  }
  return rows;
}

std::vector<Row> take(Loader& loader, int steps) {
  std::vector<Row> rows;
  for (int i = 0; i < steps; ++i) {
    for (Row& row : rows_of(loader.next_step())) rows.push_back(std::move(row));
  }
  return rows;
}

std::string batching_name(Batching batching) {
  return batching == Batching::packed ? "Packed" : batching == Batching::padded ? "Padded" : "Bucketed";
}

class EveryBatching : public ::testing::TestWithParam<Batching> {
 protected:
  DataOptions data(std::int64_t sequence_length = 12) const {
    return {.sequence_length = sequence_length, .batching = GetParam()};
  }
  const Corpus corpus{60};
};
INSTANTIATE_TEST_SUITE_P(Loader, EveryBatching,
                         ::testing::Values(Batching::packed, Batching::padded, Batching::bucketed),
                         [](const auto& info) { return batching_name(info.param); });

TEST_P(EveryBatching, ShiftsTargetsByOneAndPadsWithoutLoss) {
  Loader loader(corpus.set, data(), {.global_batch_size = 8, .micro_batch_size = 4, .seed = 3});
  for (int step = 0; step < 20; ++step) {
    for (const Batch& batch : loader.next_step()) {
      ASSERT_EQ(batch.tokens.sizes(), batch.targets.sizes());
      ASSERT_EQ(batch.tokens.scalar_type(), at::kLong);
      std::int64_t targets = 0;
      std::int64_t longest = 0;
      for (std::int64_t b = 0; b < batch.tokens.size(0); ++b) {
        const auto* x = batch.tokens[b].data_ptr<std::int64_t>();
        const auto* y = batch.targets[b].data_ptr<std::int64_t>();
        std::int64_t length = 0;
        while (length < batch.tokens.size(1) && y[length] != kNoTarget) ++length;
        for (std::int64_t t = 0; t + 1 < length; ++t) ASSERT_EQ(y[t], x[t + 1]);
        for (std::int64_t t = length; t < batch.tokens.size(1); ++t) {
          ASSERT_EQ(y[t], kNoTarget);
          ASSERT_EQ(x[t], corpus.set.eos_id());
        }
        ASSERT_GT(length, 0);
        targets += length;
        longest = std::max(longest, length);
      }
      EXPECT_EQ(batch.target_count, targets);
      EXPECT_EQ(batch.tokens.size(1), GetParam() == Batching::packed ? 12 : longest);
      EXPECT_LE(longest, 12);
    }
  }
}

TEST_P(EveryBatching, TakesEachSampleOnceInAnEpoch) {
  const SampleTable table(corpus.set, GetParam(), 12);
  // A global batch that divides neither the epoch nor a window.
  SampleOrder order(table, GetParam(), 7, 5);
  std::map<std::int64_t, int> seen;
  const std::int64_t steps = 16 * table.size();  // a whole number of windows and of epochs
  for (std::int64_t step = 0; step < steps; ++step) {
    for (const Sample& sample : order.samples(step, 0, 7)) ++seen[sample.first];
  }
  EXPECT_EQ(static_cast<std::int64_t>(seen.size()), table.size());
  for (const auto& [first, count] : seen) ASSERT_EQ(count, 7 * 16) << first;
}

TEST_P(EveryBatching, GivesTheSameSamplesForAnyRanksAndMicroBatches) {
  const auto step_rows = [&](int ranks, std::int64_t micro) {
    std::vector<std::vector<Row>> steps(40);
    for (int rank = 0; rank < ranks; ++rank) {
      Loader loader(
          corpus.set, data(),
          {.global_batch_size = 16, .micro_batch_size = micro, .rank = rank, .ranks = ranks, .seed = 9});
      for (auto& rows : steps) {
        const std::vector<Batch> batches = loader.next_step();
        EXPECT_EQ(static_cast<std::int64_t>(batches.size()), 16 / ranks / micro);
        for (Row& row : rows_of(batches)) rows.push_back(std::move(row));
      }
    }
    return steps;
  };
  const auto expected = step_rows(1, 16);
  EXPECT_EQ(step_rows(1, 1), expected);
  EXPECT_EQ(step_rows(2, 4), expected);
  EXPECT_EQ(step_rows(4, 2), expected);
  EXPECT_EQ(step_rows(16, 1), expected);
}

TEST_P(EveryBatching, ResumesWithTheVerySameBatches) {
  const LoaderOptions options{.global_batch_size = 8, .micro_batch_size = 4, .seed = 11};
  Loader unbroken(corpus.set, data(), options);
  ASSERT_GT(40 * 8, unbroken.samples_per_epoch());  // the steps cross epochs
  std::vector<std::vector<Batch>> expected;
  for (int i = 0; i < 40; ++i) expected.push_back(unbroken.next_step());
  for (const int stop : {0, 1, 5, 15, 16, 23, 39}) {
    test::MemoryState state;
    {
      Loader first(corpus.set, data(), options);
      for (int i = 0; i < stop; ++i) first.next_step();
      first.save(state);
    }
    Loader second(corpus.set, data(), options);
    second.next_step();  // the prefetch thread is at work when the state comes
    second.load(state);
    EXPECT_EQ(second.samples_consumed(), 8 * stop);
    for (std::size_t i = static_cast<std::size_t>(stop); i < expected.size(); ++i) {
      const std::vector<Batch> batches = second.next_step();
      ASSERT_EQ(batches.size(), expected[i].size());
      for (std::size_t j = 0; j < batches.size(); ++j) {
        ASSERT_TRUE(at::equal(batches[j].tokens, expected[i][j].tokens)) << stop << " " << i;
        ASSERT_TRUE(at::equal(batches[j].targets, expected[i][j].targets)) << stop << " " << i;
      }
    }
  }
}

TEST_P(EveryBatching, DependsOnSeedAndEpoch) {
  const auto epoch = [&](std::uint64_t seed, int which) {
    Loader loader(corpus.set, data(), {.global_batch_size = 1, .micro_batch_size = 1, .seed = seed});
    const int samples = static_cast<int>(loader.samples_per_epoch());
    take(loader, which * samples);
    return take(loader, samples);
  };
  EXPECT_EQ(epoch(1, 0), epoch(1, 0));
  EXPECT_NE(epoch(1, 0), epoch(2, 0));
  EXPECT_NE(epoch(1, 0), epoch(1, 1));
}

TEST_P(EveryBatching, PrefetchesWhatItMakesWithoutAThread) {
  Loader ahead(corpus.set, data(),
               {.global_batch_size = 4, .micro_batch_size = 2, .seed = 2, .prefetch_steps = 3});
  Loader direct(corpus.set, data(),
                {.global_batch_size = 4, .micro_batch_size = 2, .seed = 2, .prefetch_steps = 0});
  EXPECT_EQ(take(ahead, 50), take(direct, 50));
}

TEST(Loader, CutsThePackedStreamIntoSamplesThatShareOneToken) {
  const TempFolder folder;
  test::write_shard(folder / "a.h5", {{10, 11, 12, 13}, {14, 15, 16, 17, 18}});  // 11 tokens with EOS
  const ShardSet set = ShardSet::open({folder / "a.h5"});
  const SampleTable table(set, Batching::packed, 4);
  ASSERT_EQ(table.size(), 2);
  EXPECT_EQ(table.at(0), (Sample{0, 5}));
  EXPECT_EQ(table.at(1), (Sample{4, 5}));
  const SampleTable with_tail(set, Batching::packed, 4, true);
  ASSERT_EQ(with_tail.size(), 3);
  EXPECT_EQ(with_tail.at(2), (Sample{8, 3}));
}

TEST(Loader, SplitsLongDocumentsAndKeepsShortOnesWhole) {
  const TempFolder folder;
  test::write_shard(folder / "a.h5", {{10, 11, 12, 13, 14, 15, 16, 17, 18}, {20}, {21, 22, 23, 24}});
  const SampleTable table(ShardSet::open({folder / "a.h5"}), Batching::padded, 4);
  ASSERT_EQ(table.size(), 5);
  EXPECT_EQ(table.at(0), (Sample{0, 5}));
  EXPECT_EQ(table.at(1), (Sample{4, 5}));
  EXPECT_EQ(table.at(2), (Sample{8, 2}));
  EXPECT_EQ(table.at(3), (Sample{10, 2}));
  EXPECT_EQ(table.at(4), (Sample{12, 5}));
}

TEST(Loader, BucketsWasteLessPadding) {
  const Corpus corpus(400);
  const auto padding = [&corpus](Batching batching) {
    Loader loader(corpus.set, {.sequence_length = 64, .batching = batching},
                  {.global_batch_size = 16, .micro_batch_size = 8, .seed = 4});
    std::int64_t cells = 0;
    std::int64_t targets = 0;
    for (int i = 0; i < 48; ++i) {
      for (const Batch& batch : loader.next_step()) {
        cells += batch.tokens.numel();
        targets += batch.target_count;
      }
    }
    return static_cast<double>(cells - targets) / static_cast<double>(cells);
  };
  EXPECT_GT(padding(Batching::padded), 0.25);
  EXPECT_LT(padding(Batching::bucketed), 0.05);
}

TEST(Loader, NamesCountsThatWorkWhenTheGlobalBatchCannotBeSplit) {
  const Corpus corpus(20);
  const auto failure = [&corpus](std::int64_t global, std::int64_t micro, int ranks) {
    return message_of<UsageError>([&] {
      Loader(corpus.set, {.sequence_length = 8},
             {.global_batch_size = global, .micro_batch_size = micro, .ranks = ranks});
    });
  };
  EXPECT_THAT(failure(16, 1, 3), HasSubstr("rank counts that can: 1, 2, 4, 8, 16"));
  EXPECT_THAT(failure(24, 5, 2), HasSubstr("sizes that do: 1, 2, 3, 4, 6, 12"));
  EXPECT_EQ(failure(24, 4, 2), "");
}

TEST(Loader, RefusesShardsWithoutASample) {
  const TempFolder folder;
  test::write_shard(folder / "a.h5", {{10, 11}});
  const ShardSet set = ShardSet::open({folder / "a.h5"});
  EXPECT_THAT(message_of<DataError>([&] { Loader(set, {.sequence_length = 8}, {}); }),
              HasSubstr("too few for one sample"));
}

TEST(Loader, RefusesAStateOfOtherDataOrOrder) {
  const Corpus corpus(20);
  const Corpus other(22);
  const DataOptions data{.sequence_length = 8};
  test::MemoryState state;
  Loader(corpus.set, data, {.global_batch_size = 4, .seed = 1}).save(state);
  const auto failure = [&](const ShardSet& set, const DataOptions& options,
                           const LoaderOptions& loader_options) {
    Loader loader(set, options, loader_options);
    return message_of<CheckpointError>([&] { loader.load(state); });
  };
  EXPECT_EQ(failure(corpus.set, data, {.global_batch_size = 4, .seed = 1}), "");
  EXPECT_EQ(failure(corpus.set, data,
                    {.global_batch_size = 4, .micro_batch_size = 2, .rank = 1, .ranks = 2, .seed = 1}),
            "");
  EXPECT_THAT(failure(other.set, data, {.global_batch_size = 4, .seed = 1}),
              HasSubstr("shards are not those"));
  EXPECT_THAT(failure(corpus.set, data, {.global_batch_size = 8, .seed = 1}),
              HasSubstr("train.global_batch_size was 4"));
  EXPECT_THAT(failure(corpus.set, data, {.global_batch_size = 4, .seed = 2}), HasSubstr("train.seed was 1"));
  EXPECT_THAT(failure(corpus.set, {.sequence_length = 9}, {.global_batch_size = 4, .seed = 1}),
              HasSubstr("sequence_length"));
}

TEST(Loader, RethrowsWhatGoesWrongInItsThread) {
  const TempFolder folder;
  std::vector<std::vector<std::int32_t>> documents(200, std::vector<std::int32_t>(400, 10));
  test::write_shard(folder / "a.h5", documents);
  const ShardSet set = ShardSet::open({folder / "a.h5"});
  Loader loader(set, {.sequence_length = 64}, {.global_batch_size = 4, .micro_batch_size = 4});
  std::filesystem::resize_file(folder / "a.h5", 1000);
  const std::string message = message_of<DataError>([&] {
    for (int i = 0; i < 100; ++i) loader.next_step();
  });
  EXPECT_THAT(message, HasSubstr("a.h5"));
  EXPECT_THAT(message, HasSubstr("changed during the run"));
}

TEST(Loader, EndsItsThreadWhenDropped) {
  const Corpus corpus(30);
  for (int i = 0; i < 50; ++i) {
    Loader loader(corpus.set, {.sequence_length = 8}, {.global_batch_size = 4, .micro_batch_size = 4});
    if (i % 2 == 0) loader.next_step();
  }
}

TEST(Permutation, IsABijectionThatTheKeyChanges) {
  for (const std::uint64_t size : {1U, 2U, 3U, 4U, 5U, 16U, 17U, 100U, 1023U, 1024U, 1025U, 50000U}) {
    const Permutation permutation(size, 42);
    std::vector<bool> hit(size);
    for (std::uint64_t i = 0; i < size; ++i) {
      const std::uint64_t value = permutation(i);
      ASSERT_LT(value, size);
      ASSERT_FALSE(hit[value]) << size;
      hit[value] = true;
    }
  }
  std::uint64_t same = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) same += Permutation(1000, 1)(i) == Permutation(1000, 2)(i) ? 1 : 0;
  EXPECT_LT(same, 10U);
}

TEST(Permutation, SpreadsNeighboursOverTheWholeRange) {
  const std::uint64_t size = std::uint64_t{1} << 40;
  const Permutation permutation(size - 12345, 7);
  double mean = 0;
  std::set<std::uint64_t> values;
  for (std::uint64_t i = 0; i < 4096; ++i) {
    values.insert(permutation(i));
    mean += static_cast<double>(permutation(i)) / static_cast<double>(size) / 4096;
  }
  EXPECT_EQ(values.size(), 4096U);
  EXPECT_NEAR(mean, 0.5, 5 * 0.2887 / 64);
}

class EvaluationOf : public ::testing::TestWithParam<Batching> {};
INSTANTIATE_TEST_SUITE_P(EvaluationCursor, EvaluationOf,
                         ::testing::Values(Batching::packed, Batching::padded));

TEST_P(EvaluationOf, CoversEveryTargetOnceInOrderForAnyRanks) {
  const Corpus corpus(40);
  const DataOptions data{.sequence_length = 12, .batching = GetParam()};
  const std::int64_t all =
      corpus.set.tokens() - (GetParam() == Batching::packed ? 1 : corpus.set.documents());
  for (const std::int64_t limit :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{100}, std::int64_t{101}, all + 5}) {
    std::vector<Row> whole;
    for (const int ranks : {1, 2, 3}) {
      std::vector<EvaluationCursor> cursors;
      for (int rank = 0; rank < ranks; ++rank) {
        cursors.emplace_back(
            corpus.set, data,
            EvaluationOptions{.batch_size = 5, .max_tokens = limit, .rank = rank, .ranks = ranks});
      }
      std::vector<Row> rows;
      std::int64_t targets = 0;
      for (std::size_t turn = 0;; ++turn) {
        const auto batch = cursors[turn % cursors.size()].next();
        if (!batch) break;
        targets += batch->target_count;
        for (Row& row : rows_of({*batch})) rows.push_back(std::move(row));
      }
      EXPECT_EQ(targets, limit == 0 ? all : std::min(limit, all));
      if (ranks == 1) whole = rows;
      EXPECT_EQ(rows, whole) << ranks;
    }
  }
}

TEST(EvaluationCursor, CountsTheTargetsThatItCovers) {
  const TempFolder folder;
  test::write_shard(folder / "a.h5", {{10, 11, 10}, {12, 10}}, "validation");
  const ShardSet set = ShardSet::open({folder / "a.h5"});
  const auto counts = count_targets(set, {.sequence_length = 4}, 0);
  EXPECT_EQ(counts[10], 2);
  EXPECT_EQ(counts[11], 1);
  EXPECT_EQ(counts[12], 1);
  EXPECT_EQ(counts[2], 2);
  EXPECT_EQ(count_targets(set, {.sequence_length = 4}, 2)[11], 1);
}

}  // namespace
}  // namespace kumiko::data
