// SPDX-License-Identifier: Apache-2.0
#include "data/prepare.hpp"

#include <chrono>
#include <future>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/options.hpp"
#include "data/shard_set.hpp"
#include "framework/core/error.hpp"
#include "tests/support/corpus.hpp"

namespace kumiko::data {
namespace {

using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class Prepare : public ::testing::Test {
 protected:
  Prepare() {
    write_text(folder / "tokenizer.model", test::small_tokenizer().model_bytes());
    std::filesystem::create_directory(folder / "text");
    options.documents.inputs = {folder / "text"};
    options.tokenizer = folder / "tokenizer.model";
    options.output = folder / "shards";
    options.validation_fraction = 0.2;
  }

  void write_documents(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i)
      write_text(folder / "text" / (std::to_string(i) + ".txt"), test::made_up_code(i));
  }
  std::vector<std::string> output_names() const {
    std::vector<std::string> names;
    if (!std::filesystem::exists(options.output)) return names;
    for (const auto& entry : std::filesystem::directory_iterator(options.output))
      names.push_back(entry.path().filename());
    return names;
  }
  static std::multiset<std::string> texts_of(const SplitSummary& split) {
    std::multiset<std::string> texts;
    for (const ShardInfo& info : split.shards) {
      const ShardReader reader(info.path);
      const auto offsets = reader.document_offsets();
      for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
        std::vector<std::int64_t> ids(static_cast<std::size_t>(offsets[i + 1] - offsets[i]));
        reader.read(offsets[i], ids);
        EXPECT_EQ(ids.back(), 2);
        texts.insert(test::small_tokenizer().decode(std::vector<std::int32_t>(ids.begin(), ids.end())));
      }
    }
    return texts;
  }
  template <class E>
  std::string failure() {
    return message_of<E>([this] { prepare(options); });
  }

  const TempFolder folder;
  PrepareOptions options;
};

TEST_F(Prepare, PutsEveryDistinctDocumentIntoOneSplitAndGivesItBack) {
  write_documents(100);
  for (int i = 0; i < 30; ++i)
    write_text(folder / "text" / ("copy" + std::to_string(i) + ".txt"),
               test::made_up_code(static_cast<std::uint64_t>(i)));

  const PrepareSummary summary = prepare(options);

  EXPECT_EQ(summary.files, 130);
  EXPECT_EQ(summary.duplicates, 30);
  EXPECT_EQ(summary.train.documents + summary.validation.documents, 100);
  EXPECT_GT(summary.validation.documents, 5);
  EXPECT_LT(summary.validation.documents, 40);
  std::multiset<std::string> expected;
  for (std::uint64_t i = 0; i < 100; ++i) expected.insert(test::made_up_code(i));
  auto texts = texts_of(summary.train);
  texts.merge(texts_of(summary.validation));
  EXPECT_EQ(texts, expected);
  EXPECT_EQ(summary.train.shards.front().split, "train");
  EXPECT_EQ(summary.validation.shards.front().split, "validation");
  EXPECT_THAT(output_names(), UnorderedElementsAre("train-00000.h5", "val-00000.h5"));
}

TEST_F(Prepare, SplitsByContentWhateverTheNameOrOrder) {
  write_documents(60);
  const auto first = texts_of(prepare(options).validation);
  std::filesystem::remove_all(folder / "text");
  std::string lines;
  for (std::uint64_t i = 60; i > 0; --i) {
    write_text(folder / "text" / ("other-" + std::to_string(1000 - i) + ".txt"), test::made_up_code(i - 1));
  }
  options.output = folder / "again";
  EXPECT_EQ(texts_of(prepare(options).validation), first);
}

TEST_F(Prepare, ClosesShardsAtTheLimitAndIsDeterministic) {
  write_documents(60);
  options.shard_tokens = 3000;
  const PrepareSummary summary = prepare(options);
  ASSERT_GT(summary.train.shards.size(), 3U);
  for (std::size_t i = 0; i + 1 < summary.train.shards.size(); ++i) {
    EXPECT_GE(summary.train.shards[i].tokens, 3000);
    EXPECT_LT(summary.train.shards[i].tokens, 5000);
  }
  std::int64_t tokens = 0;
  for (const ShardInfo& info : summary.train.shards) tokens += info.tokens;
  EXPECT_EQ(tokens, summary.train.tokens);

  const std::filesystem::path before = options.output;
  options.output = folder / "again";
  prepare(options);
  for (const auto& entry : std::filesystem::directory_iterator(before)) {
    EXPECT_EQ(read_text(entry.path()), read_text(options.output / entry.path().filename())) << entry.path();
  }
}

TEST_F(Prepare, TakesTheSelectionFromTrainingAndKeepsTheValidationAsItWas) {
  write_documents(200);
  for (int i = 0; i < 50; ++i)
    write_text(folder / "text" / ("copy" + std::to_string(i) + ".txt"), test::made_up_code(static_cast<std::uint64_t>(i)));
  const PrepareSummary before = prepare(options);
  const auto validation = texts_of(before.validation);
  EXPECT_THAT(before.selection.shards, IsEmpty());

  options.selection_fraction = 0.2;
  options.output = folder / "again";
  const PrepareSummary summary = prepare(options);

  EXPECT_EQ(texts_of(summary.validation), validation);
  EXPECT_GT(summary.selection.documents, 20);
  EXPECT_EQ(summary.train.documents + summary.validation.documents + summary.selection.documents, 200);
  std::multiset<std::string> all = texts_of(summary.train);
  all.merge(texts_of(summary.validation));
  all.merge(texts_of(summary.selection));
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), 200U) << "a text lies in two splits";
  EXPECT_EQ(ShardReader(summary.selection.shards.at(0).path).info().split, "selection");

  options.selection_fraction = 0.8;
  EXPECT_THAT(failure<UsageError>(), HasSubstr("together they must be below 1"));
}

TEST_F(Prepare, StopsAtTheByteLimit) {
  write_documents(60);
  options.max_bytes = 20'000;
  const PrepareSummary summary = prepare(options);
  const std::int64_t bytes = summary.train.text_bytes + summary.validation.text_bytes;
  EXPECT_GE(bytes, 20'000);
  EXPECT_LT(bytes, 23'000);
}

TEST_F(Prepare, RefusesToReplaceShardsUnlessForced) {
  write_documents(30);
  options.shard_tokens = 3000;
  prepare(options);
  const auto before = output_names();
  EXPECT_THAT(failure<UsageError>(), HasSubstr("--force"));
  EXPECT_EQ(output_names(), before);

  options.force = true;
  options.shard_tokens = 1'000'000;
  prepare(options);

  EXPECT_THAT(output_names(), UnorderedElementsAre("train-00000.h5", "val-00000.h5"));
}

TEST_F(Prepare, WaitsForTheOneWhoIsWritingInTheFolder) {
  write_documents(30);
  const auto live = options.output / "train-00007.h5.partial";
  std::future<PrepareSummary> second;
  {
    const ShardFolderLock lock(options.output);
    write_text(live, "being written");
    second = std::async(std::launch::async, [this] { return prepare(options); });
    EXPECT_EQ(second.wait_for(std::chrono::milliseconds(300)), std::future_status::timeout);
    EXPECT_TRUE(std::filesystem::exists(live));
    std::filesystem::remove(live);
  }
  EXPECT_EQ(second.get().train.shards.size(), 1U);
}

TEST_F(Prepare, IsFinishedByTheNextOneWhenKilledWhilePuttingShardsInPlace) {
  write_documents(30);
  prepare(options);
  const std::string training = read_text(options.output / "train-00000.h5");
  std::filesystem::rename(options.output / "train-00000.h5", options.output / "train-00000.h5.partial");
  write_text(options.output / "train-00001.h5", "of the set before");
  write_text(options.output / ".publishing", "-train-00001.h5\n+train-00000.h5\n+val-00000.h5\n");
  EXPECT_THAT(message_of<DataError>([&] { expand_shards({(options.output / "val-*.h5").string()}); }), HasSubstr("being put in place"));

  EXPECT_THAT(failure<UsageError>(), HasSubstr("--force"));
  EXPECT_THAT(output_names(), UnorderedElementsAre("train-00000.h5", "val-00000.h5"));
  EXPECT_EQ(read_text(options.output / "train-00000.h5"), training);
  EXPECT_EQ(expand_shards({(options.output / "*.h5").string()}).size(), 2U);
}

TEST_F(Prepare, LeavesOldShardsAloneAndNothingElseWhenItFails) {
  write_documents(30);
  const PrepareSummary summary = prepare(options);
  const std::string before = read_text(summary.train.shards.front().path);
  write_text(folder / "text/zz.txt", "not UTF-8: \xFF");
  options.force = true;
  options.shard_tokens = 1000;

  EXPECT_THAT(failure<DataError>(), HasSubstr("zz.txt' is not UTF-8"));

  EXPECT_THAT(output_names(), UnorderedElementsAre("train-00000.h5", "val-00000.h5"));
  EXPECT_EQ(read_text(summary.train.shards.front().path), before);
}

TEST_F(Prepare, RefusesAnEmptyCorpus) {
  write_text(folder / "text/a.txt", "");
  const std::string message = failure<DataError>();
  EXPECT_THAT(message, HasSubstr("no document"));
  EXPECT_THAT(message, HasSubstr("1 files"));
  EXPECT_THAT(output_names(), IsEmpty());
}

TEST_F(Prepare, RefusesJsonLinesWithoutTheField) {
  write_text(folder / "text/a.jsonl", "{\"text\":\"x\"}\n{\"content\":\"y\"}\n");
  EXPECT_THAT(failure<DataError>(), HasSubstr("a.jsonl:2' has no field 'text'"));
}

TEST_F(Prepare, RefusesOptionsAndFoldersThatCannotWork) {
  write_documents(3);
  const PrepareOptions good = options;
  options.validation_fraction = 1.0;
  EXPECT_THAT(failure<UsageError>(), HasSubstr("[0, 1)"));
  options = good;
  options.output = folder / "tokenizer.model";
  EXPECT_THAT(failure<UsageError>(), HasSubstr("cannot be made"));
  options = good;
  options.tokenizer = folder / "none.model";
  EXPECT_THAT(failure<DataError>(), HasSubstr("kumiko tokenizer train"));
}

TEST_F(Prepare, ReportsProgressUpToTheEnd) {
  write_documents(20);
  std::vector<PrepareProgress> reports;
  const PrepareSummary summary =
      prepare(options, [&reports](const PrepareProgress& progress) { reports.push_back(progress); });
  ASSERT_FALSE(reports.empty());
  EXPECT_EQ(reports.back().documents, 20);
  EXPECT_EQ(reports.back().tokens, summary.train.tokens + summary.validation.tokens);
  EXPECT_EQ(reports.back().file_bytes_read, reports.back().file_bytes_total);
}

}  // namespace
}  // namespace kumiko::data
