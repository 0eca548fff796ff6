// SPDX-License-Identifier: Apache-2.0
#include "framework/train/safetensors.hpp"

#include <fstream>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/support/temp_folder.hpp"
#include "tests/train/sample_state.hpp"

namespace kumiko {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using test::TempFolder;

std::string sized(const std::string& header) {
  std::string text(8, '\0');
  for (int i = 0; i < 8; ++i)
    text[static_cast<std::size_t>(i)] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return text + header;
}

std::string refusal(const std::string& bytes) {
  TempFolder folder;
  test::write_text(folder / "attack.safetensors", bytes);
  try {
    SafetensorsFile::open(folder / "attack.safetensors");
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), HasSubstr("attack.safetensors"));
    return error.what();
  }
  return "accepted";
}

TEST(SafetensorsFile, ReadsBytesMadeByHand) {
  TempFolder folder;
  const std::string header =
      R"({"b":{"dtype":"I64","shape":[],"data_offsets":[6,14]},"__metadata__":{"k":"v"},)"
      R"("a":{"dtype":"BF16","shape":[3,1],"data_offsets":[0,6]},"none":{"dtype":"F32","shape":[0,7],"data_offsets":[6,6]}}   )";
  test::write_text(
      folder / "hand",
      sized(header) + std::string("\x80\x3f\x00\x40\x40\xc0\xfe\xff\xff\xff\xff\xff\xff\xff", 14));

  const auto file = SafetensorsFile::open(folder / "hand");

  EXPECT_THAT(file.metadata(), ElementsAre(Pair("k", "v")));
  EXPECT_EQ(file.entries().size(), 3u);
  EXPECT_TRUE(file.tensor("a").equal(at::tensor({1.0, 2.0, -3.0}).view({3, 1}).to(at::kBFloat16)));
  EXPECT_EQ(file.tensor("b").item<std::int64_t>(), -2);
  EXPECT_EQ(file.tensor("b").dim(), 0);
  EXPECT_EQ(file.tensor("none").sizes(), (std::vector<std::int64_t>{0, 7}));
  EXPECT_THROW(file.tensor("c"), CheckpointError);
}

TEST(SafetensorsFile, RefusesAttacks) {
  const std::string four(4, 'x');
  const auto one = [&](const std::string& entry) { return refusal(sized("{\"a\":" + entry + "}") + four); };
  EXPECT_EQ(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "accepted");

  EXPECT_THAT(refusal(""), HasSubstr("only 0 bytes"));
  EXPECT_THAT(refusal("1234567"), HasSubstr("only 7 bytes"));
  EXPECT_THAT(refusal(std::string("\0\xe1\xf5\x05\x01\0\0\0", 8) + "{}"), HasSubstr("would have"));
  EXPECT_THAT(refusal(std::string(8, '\xff') + "{}"), HasSubstr("would have 18446744073709551615 bytes"));
  EXPECT_THAT(refusal(std::string("\x03\0\0\0\0\0\0\0", 8) + "{}"), HasSubstr("longer than the file"));
  EXPECT_THAT(refusal(sized("")), HasSubstr("begin with"));
  EXPECT_THAT(refusal(sized(" {}")), HasSubstr("begin with"));
  EXPECT_THAT(refusal(sized("[]")), HasSubstr("begin with"));
  EXPECT_THAT(refusal(sized("{\"a\":")), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(sized("{} {}")), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(sized("{\"\xff\":1}")), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(sized("{\"a\":" + std::string(200000, '['))), HasSubstr("nested deeper"));
  EXPECT_THAT(refusal(sized("{}") + "x"), HasSubstr("the file has 1"));
  EXPECT_THAT(one("1"), HasSubstr("exactly dtype, shape and data_offsets"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1})"), HasSubstr("exactly"));
  EXPECT_THAT(one(R"({"dtype":"F64","shape":[1],"data_offsets":[0,4]})"), HasSubstr("dtype"));
  EXPECT_THAT(one(R"({"dtype":7,"shape":[1],"data_offsets":[0,4]})"), HasSubstr("dtype"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), HasSubstr("natural"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})"), HasSubstr("natural"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[NaN],"data_offsets":[0,4]})"), HasSubstr("not valid JSON"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})"),
              HasSubstr("natural"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]})"),
              HasSubstr("larger than 2^63"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]})"),
              HasSubstr("larger than 2^63"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), HasSubstr("needs 8 bytes"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), HasSubstr("offsets are 4 to 0"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0]})"), HasSubstr("no pair"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[1,5]})"), HasSubstr("hole"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[3],"data_offsets":[0,3]})"),
              HasSubstr("have 3 bytes, the file has 4"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1,2],"data_offsets":[0,8]})"),
              HasSubstr("have 8 bytes, the file has 4"));
  const std::string u8 = R"({"dtype":"U8","shape":[2],"data_offsets":[)";
  EXPECT_THAT(refusal(sized("{\"a\":" + u8 + "0,2]},\"a\":" + u8 + "2,4]}}") + four),
              HasSubstr("there twice"));
  EXPECT_THAT(refusal(sized("{\"a\":" + u8 + "0,2]},\"b\":" + u8 + "1,3]}}") + four), HasSubstr("overlap"));
  EXPECT_THAT(refusal(sized("{\"a\":" + u8 + "0,2]},\"b\":" + u8 + "0,2]}}") + four), HasSubstr("overlap"));
  EXPECT_THAT(refusal(sized("{\"a\":" + u8 + "0,2]},\"b\":" + u8 + "3,5]}}") + four), HasSubstr("hole"));
  EXPECT_THAT(refusal(sized(R"({"__metadata__":{"a":1}})")), HasSubstr("no text"));
  EXPECT_THAT(refusal(sized(R"({"__metadata__":[]})")), HasSubstr("no mapping"));
}

TEST(Safetensors, ReadsBackWhatItWrites) {
  TempFolder folder;
  const std::vector<SafetensorsEntry> entries{
      {"bytes", at::kByte, {3}},   {"odd.bf16", at::kBFloat16, {5}}, {"wide", at::kLong, {2}},
      {"f32", at::kFloat, {2, 3}}, {"half", at::kHalf, {1, 1, 1}},   {"scalar", at::kFloat, {}},
      {"none", at::kFloat, {4, 0}}};
  std::vector<at::Tensor> tensors;
  for (const auto& entry : entries)
    tensors.push_back(
        at::arange(24).slice(0, 0, c10::multiply_integers(entry.shape)).view(entry.shape).to(entry.dtype));
  tensors[3] = at::arange(6, at::kFloat).view({3, 2}).t();
  std::vector<std::size_t> asked;

  write_safetensors(folder / "model", entries,
                    [&](std::size_t index) {
                      asked.push_back(index);
                      return tensors[index];
                    },
                    {{"format", "pt"}, {"note", "\xc3\xa9"}});

  EXPECT_EQ(asked.size(), entries.size());
  const auto file = SafetensorsFile::open(folder / "model");
  EXPECT_THAT(file.metadata(), ElementsAre(Pair("format", "pt"), Pair("note", "\xc3\xa9")));
  for (std::size_t i = 0; i < entries.size(); ++i) {
    EXPECT_TRUE(file.tensor(entries[i].name).equal(tensors[i])) << entries[i].name;
    EXPECT_EQ(file.tensor(entries[i].name).scalar_type(), entries[i].dtype);
  }
  std::uint64_t header = 0;
  const std::string bytes = test::read_text(folder / "model");
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ(header % 8, 0u);
  EXPECT_EQ(test::names_in(folder.path()).size(), 1u);
}

TEST(Safetensors, LeavesAnOlderFileWhenWritingFails) {
  TempFolder folder;
  test::write_text(folder / "model", "old");
  const std::vector<SafetensorsEntry> entries{{"a", at::kFloat, {2}}, {"b", at::kFloat, {2}}};

  EXPECT_THROW(write_safetensors(folder / "model", entries,
                                 [](std::size_t index) { return at::ones({index == 1 ? 3 : 2}); }),
               ShapeError);
  EXPECT_THROW(
      write_safetensors(folder / "none" / "model", entries, [](std::size_t) { return at::ones({2}); }),
      CheckpointError);
  EXPECT_THROW(write_safetensors(folder / "model", {{"a", at::kFloat, {2}}, {"a", at::kFloat, {2}}},
                                 [](std::size_t) { return at::ones({2}); }),
               CheckpointError);
  EXPECT_THROW(write_safetensors(folder / "model", {{"a", at::kDouble, {2}}},
                                 [](std::size_t) { return at::ones({2}); }),
               CheckpointError);

  EXPECT_EQ(test::read_text(folder / "model"), "old");
  EXPECT_EQ(test::names_in(folder.path()).size(), 1u);
}

TEST(SafetensorsFile, NoticesAFileThatWasCutSinceItWasOpened) {
  TempFolder folder;
  write_safetensors(folder / "model", {{"a", at::kFloat, {100}}},
                    [](std::size_t) { return at::ones({100}); });
  const auto file = SafetensorsFile::open(folder / "model");
  std::filesystem::resize_file(folder / "model", 200);

  EXPECT_THROW(file.tensor("a"), CheckpointError);
}

}  // namespace
}  // namespace kumiko
