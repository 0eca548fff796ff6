// SPDX-License-Identifier: Apache-2.0
// Shards and texts that are not what they should be: exit code 3, the file's name, what to do; nothing else is touched.
#include <cstring>

#include <gtest/gtest.h>

#include "data/h5.hpp"
#include "framework/core/sha256.hpp"
#include "tests/integration/refusal.hpp"

namespace kumiko::test {
namespace {

constexpr std::size_t kHeader = 512;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

// A shard file around an HDF5 image, with digests that are right.
void write_shard_around(const std::filesystem::path& path, const std::vector<std::byte>& image) {
  std::string header(kHeader, '\0');
  const std::uint32_t version = 1;
  const std::uint32_t size = kHeader;
  const std::uint64_t count = image.size();
  std::memcpy(header.data(), "KUMSHARD", 8);
  std::memcpy(header.data() + 8, &version, 4);
  std::memcpy(header.data() + 12, &size, 4);
  std::memcpy(header.data() + 16, &count, 8);
  const auto digest = Sha256().update(image).digest();
  std::memcpy(header.data() + 24, digest.data(), digest.size());
  const auto header_digest = Sha256().update(bytes_of(header).first(480)).digest();
  std::memcpy(header.data() + 480, header_digest.data(), header_digest.size());
  write_text(path, header + std::string(reinterpret_cast<const char*>(image.data()), image.size()));
}

// The shard again, its token number `at` changed to `id`.
void change_token(const std::filesystem::path& path, std::size_t at, std::uint16_t id) {
  const std::string whole = read_text(path);
  const auto file = data::H5File::open_image(bytes_of(whole).subspan(kHeader));
  data::H5ImageWriter writer;
  for (const auto& name : file.dataset_names()) {
    const auto& info = file.info(name);
    std::vector<std::byte> values(static_cast<std::size_t>(info.bytes));
    file.read(name, values.data(), values.size());
    if (name == "tokens") std::memcpy(values.data() + at * sizeof(id), &id, sizeof(id));
    writer.dataset(name, values.data(), info.dtype, info.dims);
  }
  for (const char* name : {"vocab_size", "eos_id", "text_bytes"}) writer.attribute(name, file.integer_attribute(name));
  for (const char* name : {"split", "tokenizer_digest", "content_digest"}) writer.attribute(name, file.text_attribute(name));
  write_shard_around(path, writer.finish());
}

std::uint16_t token_at(const std::filesystem::path& path, std::int64_t at) {
  const std::string whole = read_text(path);
  std::uint16_t id = 0;
  data::H5File::open_image(bytes_of(whole).subspan(kHeader)).read_rows("tokens", at, 1, &id);
  return id;
}

class BadShard : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "train.steps=20"}).exit_code, 0);
    saved_ = content_of(work_ / "run");
  }
  // The run's next command refuses its shards, and the run's folder is as it was.
  void expect_refused(const std::vector<std::string>& words) {
    for (const std::string output : {"run", "other"}) {
      expect_refusal(work_.kumiko({"train", "recipe.yaml", "train.steps=20", "output_dir=" + output}), 3, words);
    }
    EXPECT_EQ(content_of(work_ / "run"), saved_);
    EXPECT_FALSE(std::filesystem::exists(work_ / "other"));
  }

  Workspace work_;
  std::map<std::string, std::string> saved_;
  const std::filesystem::path train_ = work_ / "shards/train-00000.h5";
  const std::filesystem::path validation_ = work_ / "shards/val-00000.h5";
};

TEST_F(BadShard, MissingValidationShardIsNamedByItsPattern) {
  std::filesystem::remove(validation_);
  expect_refused({"no shard matches 'shards/val-*.h5'", "kumiko prepare"});
}

TEST_F(BadShard, MissingTrainingShardIsNotPreparedBesideOthers) {
  const std::string tokenizer = read_text(work_ / "shards/tokenizer.model");
  std::filesystem::remove(train_);
  write_text(work_ / "corpus/0.txt", "another text than before");
  expect_refused({"no shard matches 'shards/train-*.h5'", "'shards' has others", "remove them"});
  EXPECT_EQ(read_text(work_ / "shards/tokenizer.model"), tokenizer);
  EXPECT_TRUE(std::filesystem::exists(validation_));
}

TEST_F(BadShard, WithoutABlockToPrepareAMissingOneIsAnError) {
  std::filesystem::remove_all(work_ / "shards");
  write_text(work_ / "bad.yaml", replaced(Workspace::recipe(), "  prepare: {inputs: corpus, vocab_size: 384, validation: 0.1}\n", ""));
  expect_refusal(work_.kumiko({"train", "bad.yaml"}), 3, {"no shard matches 'shards/train-*.h5'", "kumiko prepare"});
  EXPECT_EQ(content_of(work_ / "run"), saved_);
}

TEST_F(BadShard, TruncatedOneSaysHowMuchIsMissing) {
  const auto size = std::filesystem::file_size(train_);
  std::filesystem::resize_file(train_, size - 1000);
  expect_refused({"'shards/train-00000.h5' is truncated", "1000 of " + std::to_string(size), "kumiko prepare"});
  std::filesystem::resize_file(train_, 100);
  expect_refused({"'shards/train-00000.h5' is truncated", "only 100 bytes"});
  std::filesystem::resize_file(train_, 0);
  expect_refused({"'shards/train-00000.h5' is empty", "kumiko prepare"});
}

TEST_F(BadShard, FlippedBitIsFoundAnywhere) {
  const std::string sound = read_text(train_);
  for (const std::size_t at : {std::size_t{30}, kHeader, kHeader + 3000, sound.size() / 2, sound.size() - 1}) {
    SCOPED_TRACE(at);
    write_text(train_, sound);
    flip_bit(train_, at);
    expect_refused({"'shards/train-00000.h5'", "damaged", "kumiko prepare"});
  }
  write_text(train_, sound);
  flip_bit(validation_, std::filesystem::file_size(validation_) / 2);
  expect_refused({"'shards/val-00000.h5' is damaged", "kumiko prepare"});
  expect_refusal(work_.kumiko({"eval", "run"}), 3, {"'shards/val-00000.h5' is damaged"});
}

TEST_F(BadShard, ForeignFileIsNotTakenForAShard) {
  const auto beside = work_ / "shards/train-00001.h5";
  write_text(beside, "a text that lies among the shards\n");
  expect_refused({"'shards/train-00001.h5'", "not a Kumiko shard"});
  std::filesystem::copy_file(work_ / "run/checkpoints/step-00000020/state-0000.h5", beside, std::filesystem::copy_options::overwrite_existing);
  expect_refused({"'shards/train-00001.h5'", "HDF5 file of another program"});
}

TEST_F(BadShard, OfAnotherTokenizerIsRefused) {
  ASSERT_EQ(work_.kumiko({"tokenizer", "train", "corpus", "-o", "other.model", "--vocab-size", "400"}).exit_code, 0);
  ASSERT_EQ(work_.kumiko({"prepare", "corpus", "--tokenizer", "other.model", "-o", "foreign", "--validation", "0.1"}).exit_code, 0);
  std::filesystem::copy_file(work_ / "foreign/train-00000.h5", work_ / "shards/train-00001.h5");
  expect_refused({"train-00000.h5' (vocabulary 384)", "train-00001.h5' (vocabulary 400)", "different tokenizers"});
  std::filesystem::remove(work_ / "shards/train-00001.h5");
  std::filesystem::copy_file(work_ / "foreign/val-00000.h5", validation_, std::filesystem::copy_options::overwrite_existing);
  expect_refused({"data.train and data.validation", "different tokenizers", "prepare them together"});
  expect_refusal(work_.kumiko({"eval", "run"}), 3, {"data.validation", "another tokenizer than the model's"});
}

TEST_F(BadShard, TokenBeyondTheVocabularyIsRefusedAlthoughAllDigestsMatch) {
  change_token(train_, 1234, token_at(train_, 1234));   // an image made like this is sound
  ASSERT_EQ(work_.kumiko({"inspect", "shards/train-00000.h5"}).exit_code, 0);
  change_token(train_, 1234, 384);
  expect_refused({"'shards/train-00000.h5'", "384", "beyond its vocabulary of 384"});
}

class BadText : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(work_.kumiko({"tokenizer", "train", "corpus", "-o", "t.model", "--vocab-size", "384"}).exit_code, 0);
    ASSERT_EQ(work_.kumiko({"prepare", "corpus", "--tokenizer", "t.model", "-o", "kept"}).exit_code, 0);
    kept_ = content_of(work_ / "kept");
  }
  // Both readers of text refuse it and leave no file; shards that are there stay, even when they were to be replaced.
  void expect_refused(const std::string& input, const std::vector<std::string>& words, const std::vector<std::string>& flags = {}) {
    SCOPED_TRACE(input);
    const auto with = [&](std::vector<std::string> command) {
      command.insert(command.end(), flags.begin(), flags.end());
      return work_.kumiko(command);
    };
    expect_refusal(with({"tokenizer", "train", input, "-o", "x.model", "--vocab-size", "384"}), 3, words);
    EXPECT_FALSE(std::filesystem::exists(work_ / "x.model"));
    expect_prepare_refused(input, words, flags);
  }
  void expect_prepare_refused(const std::string& input, const std::vector<std::string>& words, const std::vector<std::string>& flags = {}) {
    for (const std::string output : {"made", "kept"}) {
      std::vector<std::string> command = {"prepare", input, "--tokenizer", "t.model", "-o", output, "--force"};
      command.insert(command.end(), flags.begin(), flags.end());
      expect_refusal(work_.kumiko(command), 3, words);
    }
    EXPECT_EQ(content_of(work_ / "kept"), kept_);
    std::filesystem::create_directories(work_ / "made");
    EXPECT_TRUE(content_of(work_ / "made").empty());
  }

  Workspace work_;
  std::map<std::string, std::string> kept_;
};

TEST_F(BadText, EmptyCorpusSaysWhatWasLookedFor) {
  std::filesystem::create_directories(work_ / "empty");
  expect_refused("empty", {"'empty' has no file that ends in", ".jsonl", "--suffix"});
  expect_refused("missing", {"'missing' does not exist"});
  write_text(work_ / "blank/a.txt", "");
  expect_prepare_refused("blank", {"no document for training", "1 files"});
  expect_refusal(work_.kumiko({"tokenizer", "train", "blank", "-o", "x.model"}), 3, {"no text to train a tokenizer on"});
}

TEST_F(BadText, EmptyCorpusOfARecipeIsNamedBeforeTraining) {
  std::filesystem::create_directories(work_ / "empty");
  expect_refusal(work_.kumiko({"train", "recipe.yaml", "data.prepare.inputs=empty"}), 3, {"'empty' has no file that ends in"});
  EXPECT_FALSE(std::filesystem::exists(work_ / "run"));
}

TEST_F(BadText, FileThatIsNotUtf8NamesTheByte) {
  write_text(work_ / "latin1.txt", "abc\xff\xfe def\n");
  expect_refused("latin1.txt", {"'latin1.txt' is not UTF-8", "offset 3", "iconv", "--skip-invalid"});
}

TEST_F(BadText, JsonLineWithoutTheFieldNamesTheLine) {
  write_text(work_ / "a.jsonl", "{\"text\":\"hello\"}\n{\"body\":\"x\"}\n");
  expect_refused("a.jsonl", {"'a.jsonl:2' has no field 'text'", "--field", "--skip-invalid"});
  write_text(work_ / "a.jsonl", "{\"text\":\"hello\"}\n{\"text\":4}\n");
  expect_refused("a.jsonl", {"'a.jsonl:2'", "field 'text' is not a text"});
  write_text(work_ / "a.jsonl", "{\"body\":\"hello\"}\n{\"body\":\"a\"\n");
  expect_refused("a.jsonl", {"'a.jsonl:2' is not JSON"}, {"--field", "body"});
}

TEST_F(BadText, TruncatedArchiveNamesTheByte) {
  for (const auto& [tool, ending] : std::vector<std::pair<std::string, std::string>>{{"gzip", ".gz"}, {"zstd", ".zst"}}) {
    write_text(work_ / "a.txt", small_corpus(400));
    if (run_command({tool, "-q", "-f", "a.txt"}, work_.path()).exit_code != 0) GTEST_SKIP() << "needs " << tool;
    const auto size = std::filesystem::file_size(work_ / ("a.txt" + ending));
    std::filesystem::resize_file(work_ / ("a.txt" + ending), size / 2);
    expect_refused("a.txt" + ending, {"'a.txt" + ending + "' is truncated", "byte " + std::to_string(size / 2)});
  }
}

TEST_F(BadText, TokenizerThatIsNoneIsNamed) {
  const auto prepare = [&](const std::string& tokenizer) { return work_.kumiko({"prepare", "corpus", "--tokenizer", tokenizer, "-o", "made"}); };
  expect_refusal(prepare("nothere.model"), 3, {"'nothere.model'", "No such file", "kumiko tokenizer train"});
  expect_refusal(prepare("recipe.yaml"), 3, {"'recipe.yaml' is no SentencePiece model", "kumiko tokenizer train"});
  expect_refusal(work_.kumiko({"tokenizer", "export", "recipe.yaml", "-o", "made"}), 3, {"'recipe.yaml' is no SentencePiece model"});
  EXPECT_FALSE(std::filesystem::exists(work_ / "made"));
}

TEST_F(BadText, OutputThatIsThereOrCannotBeMadeIsUsage) {
  expect_refusal(work_.kumiko({"prepare", "corpus", "--tokenizer", "t.model", "-o", "kept"}), 2, {"'kept' already has 2 shards", "--force"});
  expect_refusal(work_.kumiko({"prepare", "corpus", "--tokenizer", "t.model", "-o", "recipe.yaml/x"}), 2,
                 {"'recipe.yaml/x' cannot be made", "Not a directory"});
  expect_refusal(work_.kumiko({"tokenizer", "train", "corpus", "-o", "t.model"}), 2, {"'t.model' already exists", "--force"});
  expect_refusal(work_.kumiko({"tokenizer", "train", "corpus", "-o", "recipe.yaml/t.model", "--vocab-size", "384"}), 2,
                 {"'recipe.yaml' cannot be made", "choose another --output"});
  expect_refusal(work_.kumiko({"tokenizer", "export", "t.model", "-o", "recipe.yaml/x"}), 2,
                 {"'recipe.yaml/x' cannot be made", "choose another --output"});
  EXPECT_EQ(content_of(work_ / "kept"), kept_);
}

TEST_F(BadText, TooLittleForTheVocabularySaysHowMuchThereIs) {
  expect_refusal(work_.kumiko({"tokenizer", "train", "corpus", "-o", "x.model", "--vocab-size", "100000"}), 3,
                 {"100000 were asked for", "smaller --vocab-size"});
  expect_refusal(work_.kumiko({"tokenizer", "train", "corpus", "-o", "x.model", "--vocab-size", "10"}), 2, {"vocabulary size 10", "300"});
}

}  // namespace
}  // namespace kumiko::test
