// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/h5.hpp"
#include "data/options.hpp"
#include "data/shard_reader.hpp"
#include "data/shard_set.hpp"
#include "data/shard_writer.hpp"
#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/sha256.hpp"
#include "tests/support/corpus.hpp"

namespace kumiko::data {
namespace {

using test::read_text;
using test::TempFolder;
using test::write_shard;
using test::write_text;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<std::vector<std::int32_t>> kDocuments{{5, 6, 7}, {8}, {9, 300, 11, 12}};

std::string failure_of(const std::filesystem::path& path) {
  try {
    const ShardReader reader(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    return error.what();
  }
  return "";
}

// A shard file around a hand-made image: good digests, any content.
void write_around(const std::filesystem::path& path, const std::vector<std::byte>& image,
                  std::uint32_t version = 1) {
  std::vector<std::byte> header(512);
  const std::uint32_t size = 512;
  const std::uint64_t bytes = image.size();
  const auto digest = Sha256().update(image).digest();
  std::memcpy(header.data(), "KUMSHARD", 8);
  std::memcpy(header.data() + 8, &version, 4);
  std::memcpy(header.data() + 12, &size, 4);
  std::memcpy(header.data() + 16, &bytes, 8);
  std::memcpy(header.data() + 24, digest.data(), 32);
  const auto header_digest = Sha256().update(std::span(header).first(480)).digest();
  std::memcpy(header.data() + 480, header_digest.data(), 32);
  const std::vector<std::span<const std::byte>> parts{header, image};
  write_file_durably(path, parts);
}

struct Tables {
  std::vector<std::uint16_t> tokens{5, 6, 2, 7, 2};
  std::vector<std::int64_t> offsets{0, 3, 5};
  std::vector<std::int64_t> counts = std::vector<std::int64_t>(10);
  std::int64_t vocab_size = 10;

  Tables() {
    for (const std::uint16_t token : tokens) ++counts[token];
  }
  std::vector<std::byte> image() const {
    H5ImageWriter writer;
    const auto put = [&writer](std::string_view name, const void* data, H5Dtype dtype, std::size_t size) {
      const auto count = static_cast<std::int64_t>(size);
      writer.dataset(name, data, dtype, std::span(&count, 1));
    };
    put("tokens", tokens.data(), H5Dtype::u16, tokens.size());
    put("document_offsets", offsets.data(), H5Dtype::i64, offsets.size());
    put("token_counts", counts.data(), H5Dtype::i64, counts.size());
    put("tokenizer", "model", H5Dtype::u8, 5);
    writer.attribute("vocab_size", vocab_size);
    writer.attribute("eos_id", std::int64_t{2});
    writer.attribute("text_bytes", std::int64_t{3});
    writer.attribute("split", "train");
    writer.attribute("tokenizer_digest", "t");
    writer.attribute("content_digest", "c");
    return writer.finish();
  }
};

TEST(Shard, GivesBackWhatWasWritten) {
  const TempFolder folder;
  const ShardInfo written = write_shard(folder / "a.h5", kDocuments);

  const ShardReader reader(folder / "a.h5");

  const ShardInfo& info = reader.info();
  EXPECT_EQ(info.documents, 3);
  EXPECT_EQ(info.tokens, 11);
  EXPECT_EQ(info.text_bytes, 8);
  EXPECT_EQ(info.vocab_size, 360);
  EXPECT_EQ(info.eos_id, 2);
  EXPECT_EQ(info.split, "train");
  EXPECT_EQ(info.tokenizer_digest, test::small_tokenizer().digest());
  EXPECT_EQ(info.content_digest, written.content_digest);
  EXPECT_EQ(info.file_bytes, static_cast<std::int64_t>(std::filesystem::file_size(folder / "a.h5")));
  std::vector<std::int64_t> tokens(11);
  reader.read(0, tokens);
  EXPECT_THAT(tokens, ElementsAre(5, 6, 7, 2, 8, 2, 9, 300, 11, 12, 2));
  EXPECT_THAT(reader.document_offsets(), ElementsAre(0, 4, 6, 11));
  EXPECT_EQ(reader.token_counts()[2], 3);
  EXPECT_EQ(reader.token_counts()[300], 1);
  EXPECT_EQ(reader.tokenizer().digest(), test::small_tokenizer().digest());
  EXPECT_TRUE(looks_like_shard(folder / "a.h5"));
}

TEST(Shard, IsTheSameFileForTheSameDocuments) {
  const TempFolder folder;
  write_shard(folder / "a.h5", kDocuments);
  write_shard(folder / "b.h5", kDocuments);
  EXPECT_EQ(read_text(folder / "a.h5"), read_text(folder / "b.h5"));
}

TEST(Shard, HasAContentDigestThatEveryPartChanges) {
  const TempFolder folder;
  const auto digest = [&folder](const std::vector<std::vector<std::int32_t>>& documents,
                                const std::string& split) {
    return write_shard(folder / "a.h5", documents, split).content_digest;
  };
  const std::string base = digest({{5, 6}, {7}}, "train");
  EXPECT_NE(base, digest({{5, 6}, {8}}, "train"));
  EXPECT_NE(base, digest({{5}, {6, 7}}, "train"));
  EXPECT_NE(base, digest({{5, 6}, {7}}, "validation"));
}

TEST(Shard, RefusesIdsBeyondTheVocabularyWhenWriting) {
  ShardWriter writer(test::small_tokenizer(), "train");
  EXPECT_THROW(writer.add(std::vector<std::int32_t>{5, 360}, 1), DataError);
  EXPECT_THROW(writer.add(std::vector<std::int32_t>{-1}, 1), DataError);
  EXPECT_EQ(writer.tokens(), 0);
}

TEST(Shard, SaysWhereAndHowManyBytesWhenItCannotBeWritten) {
  const TempFolder folder;
  ShardWriter writer(test::small_tokenizer(), "train");
  writer.add(std::vector<std::int32_t>{5}, 1);
  const std::string message =
      test::message_of<DataError>([&] { writer.write(folder / "no/such/folder.h5"); });
  EXPECT_THAT(message, HasSubstr("no/such/folder.h5"));
  EXPECT_THAT(message, HasSubstr("bytes needed"));
}

TEST(Shard, RefusesAMissingFile) {
  EXPECT_THAT(failure_of("no-such-shard.h5"), HasSubstr("shard 'no-such-shard.h5' does not exist"));
}

TEST(Shard, RefusesAForeignFile) {
  const TempFolder folder;
  write_text(folder / "text.h5", "some text");
  EXPECT_THAT(failure_of(folder / "text.h5"), HasSubstr("is not a Kumiko shard"));
  write_file_durably(folder / "other.h5", Tables().image());
  EXPECT_THAT(failure_of(folder / "other.h5"), HasSubstr("is an HDF5 file of another program"));
  write_text(folder / "empty.h5", "");
  EXPECT_THAT(failure_of(folder / "empty.h5"), HasSubstr("is empty"));
  EXPECT_THAT(failure_of(folder.path()), HasSubstr("cannot be opened"));
  EXPECT_FALSE(looks_like_shard(folder / "text.h5"));
}

TEST(Shard, RefusesEveryTruncation) {
  const TempFolder folder;
  write_shard(folder / "a.h5", kDocuments);
  const std::string bytes = read_text(folder / "a.h5");
  for (const std::size_t kept : {std::size_t{1}, std::size_t{7}, std::size_t{100}, std::size_t{511},
                                 std::size_t{512}, std::size_t{600}, bytes.size() / 2, bytes.size() - 1}) {
    write_text(folder / "cut.h5", bytes.substr(0, kept));
    const std::string message = failure_of(folder / "cut.h5");
    EXPECT_THAT(message, HasSubstr("truncated")) << kept;
    EXPECT_THAT(message, HasSubstr("kumiko prepare")) << kept;
  }
  write_text(folder / "long.h5", bytes + "x");
  EXPECT_THAT(failure_of(folder / "long.h5"), HasSubstr("1 bytes behind its end"));
}

TEST(Shard, RefusesABitFlippedAnywhere) {
  const TempFolder folder;
  write_shard(folder / "a.h5", kDocuments);
  const std::string bytes = read_text(folder / "a.h5");
  for (std::size_t i = 0; i < bytes.size(); i += i < 512 ? 1 : 37) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
    write_text(folder / "b.h5", damaged);
    const std::string message = failure_of(folder / "b.h5");
    ASSERT_THAT(message, HasSubstr("b.h5")) << "byte " << i;
    ASSERT_THAT(message, ::testing::AnyOf(HasSubstr("damaged"), HasSubstr("version"))) << "byte " << i;
  }
}

TEST(Shard, RefusesANewerVersion) {
  const TempFolder folder;
  write_around(folder / "a.h5", Tables().image(), 2);
  EXPECT_THAT(failure_of(folder / "a.h5"), HasSubstr("has format version 2, this program reads up to 1"));
}

TEST(Shard, RefusesTokenIdsBeyondTheVocabulary) {
  const TempFolder folder;
  Tables tables;
  write_around(folder / "good.h5", tables.image());
  EXPECT_EQ(failure_of(folder / "good.h5"), "");
  tables.tokens[3] = 10;
  write_around(folder / "a.h5", tables.image());
  EXPECT_THAT(failure_of(folder / "a.h5"),
              HasSubstr("has token id 10 at position 3, beyond its vocabulary of 10"));
}

TEST(Shard, RefusesTablesThatDoNotFitTogether) {
  const TempFolder folder;
  const auto failure = [&folder](auto&& change) {
    Tables tables;
    change(tables);
    write_around(folder / "a.h5", tables.image());
    return failure_of(folder / "a.h5");
  };
  EXPECT_THAT(failure([](Tables& t) { t.offsets = {0, 3, 6}; }), HasSubstr("document borders"));
  EXPECT_THAT(failure([](Tables& t) { t.offsets = {0, 4, 3, 5}; }), HasSubstr("document borders"));
  EXPECT_THAT(failure([](Tables& t) { t.offsets = {1, 5}; }), HasSubstr("document borders"));
  EXPECT_THAT(failure([](Tables& t) { ++t.counts[5]; }), HasSubstr("token counts"));
  EXPECT_THAT(failure([](Tables& t) { t.counts.push_back(0); }), HasSubstr("tables of a shard"));
  EXPECT_THAT(failure([](Tables& t) { t.vocab_size = -1; }), HasSubstr("tables of a shard"));
  H5ImageWriter nothing;
  write_around(folder / "b.h5", nothing.finish());
  EXPECT_THAT(failure_of(folder / "b.h5"), HasSubstr("missing"));
}

TEST(ShardSet, ReadsAcrossShards) {
  const TempFolder folder;
  write_shard(folder / "a.h5", {{10, 11}, {12}});
  write_shard(folder / "b.h5", {{13}});
  write_shard(folder / "c.h5", {{14, 15, 16}});

  const ShardSet set = ShardSet::open({folder / "a.h5", folder / "b.h5", folder / "c.h5"});

  EXPECT_EQ(set.tokens(), 11);
  EXPECT_EQ(set.documents(), 4);
  const std::vector<std::int64_t> all{10, 11, 2, 12, 2, 13, 2, 14, 15, 16, 2};
  for (std::int64_t first = 0; first <= 11; ++first) {
    for (std::int64_t count = 0; first + count <= 11; ++count) {
      std::vector<std::int64_t> part(static_cast<std::size_t>(count));
      set.read(first, part);
      ASSERT_TRUE(std::equal(part.begin(), part.end(), all.begin() + first)) << first << " " << count;
    }
  }
  EXPECT_THAT(set.document_offsets(), ElementsAre(0, 3, 5, 7, 11));
  EXPECT_EQ(set.token_counts()[2], 4);
  EXPECT_EQ(set.token_counts()[13], 1);
  std::vector<std::int64_t> beyond(2);
  EXPECT_THROW(set.read(10, beyond), DataError);
  EXPECT_NE(set.digest(), ShardSet::open({folder / "b.h5", folder / "a.h5", folder / "c.h5"}).digest());
}

TEST(ShardSet, RefusesShardsOfDifferentTokenizers) {
  const TempFolder folder;
  const Tokenizer other = Tokenizer::from_bytes(test::train_small_model(340), "other");
  write_shard(folder / "a.h5", {{10}});
  write_shard(folder / "b.h5", {{10}}, "train", other);
  const std::string message = test::message_of<DataError>([&] {
    ShardSet::open({folder / "a.h5", folder / "b.h5"});
  });
  EXPECT_THAT(message, HasSubstr("different tokenizers"));
  EXPECT_THAT(message, HasSubstr("b.h5"));
  EXPECT_THROW(ShardSet::open({}), DataError);
}

TEST(ShardSet, TakesTheUnigramPerplexityOfTargets) {
  // Frequencies (3+1)/8, (1+1)/8, (0+1)/8, (0+1)/8: entropies ln 2, ln 4, ln 8 for two, one and one targets.
  const std::vector<std::int64_t> counts{3, 1, 0, 0};
  const std::vector<std::int64_t> targets{2, 1, 0, 1};
  EXPECT_NEAR(unigram_perplexity(counts, targets), std::pow(2.0, (2 * 1 + 2 + 3) / 4.0), 1e-12);
  EXPECT_THROW(unigram_perplexity(counts, std::vector<std::int64_t>(4)), DataError);
}

TEST(DataOptions, ReadsItsBlock) {
  const auto options =
      DataOptions::parse(ConfigNode::parse_text("train: [a-*.h5, b.h5]\nvalidation: v.h5\nsequence_length: "
                                                "32\nbatching: bucketed\ndocument_mask: true\n",
                                                "r.yaml"));
  EXPECT_THAT(options.train, ElementsAre("a-*.h5", "b.h5"));
  EXPECT_THAT(options.validation, ElementsAre("v.h5"));
  EXPECT_EQ(options.sequence_length, 32);
  EXPECT_EQ(options.batching, Batching::bucketed);
  EXPECT_TRUE(options.document_mask);
  const auto defaults = DataOptions::parse(ConfigNode::parse_text("train: a.h5\n", "r.yaml"));
  EXPECT_EQ(defaults.sequence_length, 256);
  EXPECT_EQ(defaults.batching, Batching::packed);
  EXPECT_TRUE(defaults.validation.empty());
  const auto failure = [](const std::string& text) {
    return test::message_of<UsageError>([&] { DataOptions::parse(ConfigNode::parse_text(text, "r.yaml")); });
  };
  EXPECT_THAT(failure("validation: v.h5\n"), HasSubstr("train"));
  EXPECT_THAT(failure("train: a.h5\nbatching: packd\n"), HasSubstr("packed"));
  EXPECT_THAT(failure("train: a.h5\nsequence_length: 0\n"), HasSubstr("sequence_length"));
}

TEST(DataOptions, ExpandsPatternsSortedAndOnce) {
  const TempFolder folder;
  for (const char* name : {"t-2.h5", "t-0.h5", "t-1.h5", "v.h5"}) write_text(folder / name, "x");
  EXPECT_THAT(expand_shards({folder / "v.h5", folder / "t-*.h5", folder / "t-1.h5"}),
              ElementsAre(folder / "v.h5", folder / "t-0.h5", folder / "t-1.h5", folder / "t-2.h5"));
  const std::string message = test::message_of<DataError>([&] { expand_shards({folder / "none-*.h5"}); });
  EXPECT_THAT(message, HasSubstr("none-*.h5"));
  EXPECT_THAT(message, HasSubstr("kumiko prepare"));
}

}  // namespace
}  // namespace kumiko::data
