// SPDX-License-Identifier: Apache-2.0
#include "data/documents.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include "data/json_field.hpp"
#include "data/text_hash.hpp"
#include "framework/core/error.hpp"
#include "tests/support/corpus.hpp"

namespace kumiko::data {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string gzip(const std::string& text) {
  std::string packed(compressBound(text.size()) + 64, '\0');
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string zstd(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

std::vector<std::string> texts_of(DocumentOptions options) {
  DocumentStream stream(std::move(options));
  std::vector<std::string> texts;
  for (Document document; stream.next(document);) texts.push_back(document.text);
  return texts;
}

std::string failure_of(const DocumentOptions& options) {
  return message_of<DataError>([&] { texts_of(options); });
}

TEST(Documents, TakesFoldersInSortedOrderByEnding) {
  const TempFolder folder;
  write_text(folder / "b.py", "b");
  write_text(folder / "a/z.py", "az");
  write_text(folder / "a/y.txt", "ay");
  write_text(folder / ".hidden/x.py", "hidden");
  write_text(folder / "c.py", "");

  EXPECT_THAT(texts_of({.inputs = {folder.path()}, .suffixes = {".py"}}), ElementsAre("az", "b"));
  EXPECT_THAT(texts_of({.inputs = {folder.path()}}), ElementsAre("ay"));
  EXPECT_THAT(texts_of({.inputs = {folder / "b.py", folder / "a/y.txt"}}), ElementsAre("b", "ay"));
}

TEST(Documents, CutsTextByFileLineOrBlankLine) {
  const TempFolder folder;
  write_text(folder / "a.txt", "one\r\ntwo\n\n\n  three\nfour\n \t\nfive");

  EXPECT_THAT(texts_of({.inputs = {folder / "a.txt"}}),
              ElementsAre("one\r\ntwo\n\n\n  three\nfour\n \t\nfive"));
  EXPECT_THAT(texts_of({.inputs = {folder / "a.txt"}, .unit = DocumentUnit::line}),
              ElementsAre("one", "two", "  three", "four", " \t", "five"));
  EXPECT_THAT(texts_of({.inputs = {folder / "a.txt"}, .unit = DocumentUnit::blank_line}),
              ElementsAre("one\r\ntwo", "  three\nfour", "five"));
}

TEST(Documents, ReadsTheFieldOfJsonLines) {
  const TempFolder folder;
  write_text(folder / "a.jsonl",
             "{\"id\":1,\"text\":\"x\\n\\u00e9\"}\n\n{\"meta\":{\"text\":\"no\"},\"text\":\"y\"}\n{\"text\":"
             "\"\"}\r\n{\"text\":\"z\"}");

  EXPECT_THAT(texts_of({.inputs = {folder / "a.jsonl"}}), ElementsAre("x\né", "y", "z"));
}

TEST(Documents, UnpacksGzipAndZstdOfSeveralParts) {
  const TempFolder folder;
  std::string text;
  for (std::uint64_t i = 0; i < 300; ++i) text += test::made_up_code(i);
  const std::string half = text.substr(0, text.size() / 2);
  const std::string rest = text.substr(text.size() / 2);
  write_text(folder / "a.txt.gz", gzip(half) + gzip(rest));
  write_text(folder / "b.txt.zst", zstd(half) + zstd(rest));
  write_text(folder / "c.jsonl.gz", gzip("{\"text\":\"packed\"}\n"));

  EXPECT_THAT(texts_of({.inputs = {folder.path()}}), ElementsAre(text, text, "packed"));
}

TEST(Documents, RefusesDamagedAndTruncatedPackedFiles) {
  const TempFolder folder;
  std::string text;
  for (std::uint64_t i = 0; i < 100; ++i) text += test::made_up_code(i);
  const std::vector<std::pair<std::string, std::string>> packed{{"a.txt.gz", gzip(text)},
                                                                {"a.txt.zst", zstd(text)}};
  for (const auto& [name, bytes] : packed) {
    write_text(folder / name, bytes.substr(0, bytes.size() - 5));
    EXPECT_THAT(failure_of({.inputs = {folder / name}}), HasSubstr("truncated")) << name;
    write_text(folder / name, "plain text under a packed name");
    EXPECT_THAT(failure_of({.inputs = {folder / name}}), HasSubstr("damaged")) << name;
  }
  std::string flipped = packed[0].second;
  flipped[flipped.size() / 2] ^= 0x10;
  write_text(folder / "a.txt.gz", flipped);
  EXPECT_THAT(failure_of({.inputs = {folder / "a.txt.gz"}}), HasSubstr("a.txt.gz"));
}

TEST(Documents, NamesFileAndOffsetOfTextThatIsNotUtf8) {
  const TempFolder folder;
  write_text(folder / "a.txt", "good\nlatin-1: \xE9 here\n");
  for (const DocumentUnit unit : {DocumentUnit::file, DocumentUnit::line, DocumentUnit::blank_line}) {
    const std::string message = failure_of({.inputs = {folder / "a.txt"}, .unit = unit});
    EXPECT_THAT(message, HasSubstr("a.txt' is not UTF-8: bad byte at offset 14"));
    EXPECT_THAT(message, HasSubstr("--skip-invalid"));
  }
  write_text(folder / "b.jsonl", "{\"text\":\"ok\"}\n{\"text\":\"\xE9\"}\n");
  EXPECT_THAT(failure_of({.inputs = {folder / "b.jsonl"}}),
              HasSubstr("b.jsonl' is not UTF-8: bad byte at offset 23"));
}

TEST(Documents, NamesFileAndLineOfBadJsonLines) {
  const TempFolder folder;
  const auto failure = [&folder](const std::string& line, const std::string& field = "text") {
    write_text(folder / "a.jsonl", "{\"text\":\"ok\"}\n" + line + "\n");
    return failure_of({.inputs = {folder / "a.jsonl"}, .field = field});
  };
  EXPECT_THAT(failure("{\"content\":\"x\"}"),
              HasSubstr("a.jsonl:2' has no field 'text'; name the field with --field"));
  EXPECT_THAT(failure("{\"text\":3}"), HasSubstr("a.jsonl:2': field 'text' is not a text"));
  EXPECT_THAT(failure("{\"text\":{\"text\":\"x\"}}"), HasSubstr("a.jsonl:2': field 'text' is not a text"));
  EXPECT_THAT(failure("{\"text\":\"x\""), HasSubstr("a.jsonl:2' is not JSON"));
  EXPECT_THAT(failure("plain"), HasSubstr("a.jsonl:2' is not JSON"));
  EXPECT_THAT(failure("[{\"text\":\"x\"}]"), HasSubstr("a.jsonl:2' is not a JSON object"));
  EXPECT_THAT(failure("{\"text\":\"\\ud800\"}"), HasSubstr("a.jsonl:2' is not JSON"));
  EXPECT_THAT(failure(std::string(100000, '[')), HasSubstr("nested too deep"));
}

TEST(Documents, SkipsAndCountsBadOnesWhenAsked) {
  const TempFolder folder;
  write_text(folder / "a.jsonl", "{\"text\":\"one\"}\nbroken\n{\"text\":\"\xFF\"}\n{\"text\":\"two\"}\n");
  write_text(folder / "b.txt", "bad \xFF");
  write_text(folder / "c.txt", "good");
  DocumentStream stream({.inputs = {folder.path()}, .skip_invalid = true});
  std::vector<std::string> texts;

  for (Document document; stream.next(document);) texts.push_back(document.text);

  EXPECT_THAT(texts, ElementsAre("one", "two", "good"));
  EXPECT_EQ(stream.skipped(), 3);
  EXPECT_EQ(stream.file_bytes_read(), stream.file_bytes_total());
}

TEST(Documents, RefusesDocumentsAndLinesOverTheLimit) {
  const TempFolder folder;
  write_text(folder / "a.txt", "short\n" + std::string(2000, 'x') + "\nshort too\n");
  write_text(folder / "a.jsonl", "{\"text\":\"" + std::string(2000, 'x') + "\"}\n{\"text\":\"y\"}\n");
  EXPECT_THAT(failure_of({.inputs = {folder / "a.txt"}, .max_document_bytes = 1000}),
              HasSubstr("--document line"));
  EXPECT_THAT(
      failure_of({.inputs = {folder / "a.txt"}, .unit = DocumentUnit::line, .max_document_bytes = 1000}),
      HasSubstr("a.txt:2' is larger than"));
  EXPECT_THAT(failure_of({.inputs = {folder / "a.jsonl"}, .max_document_bytes = 1000}),
              HasSubstr("a.jsonl:1' is larger"));
  EXPECT_THAT(texts_of({.inputs = {folder / "a.txt"},
                        .unit = DocumentUnit::line,
                        .skip_invalid = true,
                        .max_document_bytes = 1000}),
              ElementsAre("short", "short too"));
}

TEST(Documents, RefusesInputsThatAreNotThere) {
  const TempFolder folder;
  write_text(folder / "a.py", "x");
  EXPECT_THAT(failure_of({.inputs = {folder / "none.txt"}}), HasSubstr("none.txt' does not exist"));
  EXPECT_THAT(failure_of({.inputs = {folder.path()}}), HasSubstr("--suffix"));
  EXPECT_THAT(failure_of({}), HasSubstr("no input"));
}

TEST(TextHashes, KnowsEachTextOnceAcrossGrowth) {
  TextHashSet set;
  for (int i = 0; i < 20000; ++i) ASSERT_TRUE(set.insert(hash_text(std::to_string(i)))) << i;
  for (int i = 0; i < 20000; ++i) ASSERT_FALSE(set.insert(hash_text(std::to_string(i)))) << i;
  EXPECT_EQ(set.size(), 20000);
}

}  // namespace
}  // namespace kumiko::data
