// SPDX-License-Identifier: Apache-2.0
#include "data/h5.hpp"

#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "framework/core/files.hpp"
#include "tests/support/temp_folder.hpp"

namespace kumiko::data {
namespace {

using kumiko::test::TempFolder;

template <class T>
std::vector<std::byte> image_of(const std::string& name, const std::vector<T>& values, H5Dtype dtype,
                                std::vector<std::int64_t> dims) {
  H5ImageWriter writer;
  writer.dataset(name, values.data(), dtype, dims);
  return writer.finish();
}

TEST(H5, GivesBackEveryTypeAndShape) {
  H5ImageWriter writer;
  const std::vector<std::uint8_t> u8{0, 1, 255};
  const std::vector<std::int8_t> i8{-128, 127};
  const std::vector<std::uint16_t> u16{0, 65535, 7, 8, 9, 10};
  const std::vector<std::int64_t> i64{std::numeric_limits<std::int64_t>::min(), -1};
  const std::vector<float> f32{-0.0F, 1e-45F, 3.5F, std::numeric_limits<float>::infinity()};
  const double f64 = 0.1;
  writer.dataset("a/b.c/u8", u8.data(), H5Dtype::u8, std::vector<std::int64_t>{3});
  writer.dataset("a/b.c/i8", i8.data(), H5Dtype::i8, std::vector<std::int64_t>{2});
  writer.dataset("a/u16", u16.data(), H5Dtype::u16, std::vector<std::int64_t>{2, 3});
  writer.dataset("bf16", u16.data(), H5Dtype::bf16, std::vector<std::int64_t>{6});
  writer.dataset("f16", u16.data(), H5Dtype::f16, std::vector<std::int64_t>{6});
  writer.dataset("i64", i64.data(), H5Dtype::i64, std::vector<std::int64_t>{2});
  writer.dataset("f32", f32.data(), H5Dtype::f32, std::vector<std::int64_t>{2, 1, 2});
  writer.dataset("scalar", &f64, H5Dtype::f64, {});
  writer.dataset("empty", nullptr, H5Dtype::i32, std::vector<std::int64_t>{0, 5});
  writer.attribute("count", std::int64_t{-5});
  writer.attribute("ratio", 0.25);
  writer.attribute("text", "π = 3");
  writer.attribute("nothing", "");

  const H5File file = H5File::open_image(writer.finish());

  EXPECT_EQ(file.dataset_names(), (std::vector<std::string>{"a/b.c/i8", "a/b.c/u8", "a/u16", "bf16", "empty",
                                                            "f16", "f32", "i64", "scalar"}));
  EXPECT_EQ(file.info("a/u16").dims, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(file.info("a/u16").dtype, H5Dtype::u16);
  EXPECT_EQ(file.info("bf16").dtype, H5Dtype::bf16);
  EXPECT_EQ(file.info("f16").dtype, H5Dtype::f16);
  EXPECT_EQ(file.info("a/b.c/i8").dtype, H5Dtype::i8);
  EXPECT_EQ(file.info("empty").bytes, 0);
  EXPECT_EQ(file.info("scalar").numel, 1);
  EXPECT_TRUE(file.info("scalar").dims.empty());
  const auto read = [&file](const std::string& name, auto values) {
    auto out = values;
    std::fill(out.begin(), out.end(), 0);
    file.read(name, out.data(), out.size() * sizeof(out[0]));
    return std::memcmp(out.data(), values.data(), out.size() * sizeof(out[0])) == 0;
  };
  EXPECT_TRUE(read("a/b.c/u8", u8));
  EXPECT_TRUE(read("a/b.c/i8", i8));
  EXPECT_TRUE(read("a/u16", u16));
  EXPECT_TRUE(read("bf16", u16));
  EXPECT_TRUE(read("f16", u16));
  EXPECT_TRUE(read("i64", i64));
  EXPECT_TRUE(read("f32", f32));
  EXPECT_TRUE(read("scalar", std::vector<double>{f64}));
  EXPECT_EQ(file.integer_attribute("count"), -5);
  EXPECT_EQ(file.real_attribute("ratio"), 0.25);
  EXPECT_EQ(file.text_attribute("text"), "π = 3");
  EXPECT_EQ(file.text_attribute("nothing"), "");
  EXPECT_FALSE(file.has_attribute("missing"));
  EXPECT_THROW(file.real_attribute("count"), H5Error);
  EXPECT_THROW(file.text_attribute("missing"), H5Error);
  EXPECT_THROW(file.info("a"), H5Error);
}

TEST(H5, ReadsRowsAndRefusesThoseOutside) {
  std::vector<std::uint32_t> values(1000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint32_t>(3 * i);
  const H5File file = H5File::open_image(image_of("t", values, H5Dtype::u32, {1000}));
  std::vector<std::uint32_t> out(10);

  file.read_rows("t", 990, 10, out.data());

  EXPECT_EQ(out.front(), 2970U);
  EXPECT_EQ(out.back(), 2997U);
  EXPECT_THROW(file.read_rows("t", 991, 10, out.data()), H5Error);
  EXPECT_THROW(file.read_rows("t", -1, 2, out.data()), H5Error);
  EXPECT_THROW(file.read("t", out.data(), out.size() * 4), H5Error);
}

TEST(H5, GivesTheSameBytesForTheSameCalls) {
  const std::vector<float> values{1, 2, 3};
  EXPECT_EQ(image_of("x/y", values, H5Dtype::f32, {3}), image_of("x/y", values, H5Dtype::f32, {3}));
}

TEST(H5, KeepsImagesThatAreOpenTogetherApart) {
  const H5File first = H5File::open_image(image_of("v", std::vector<std::int32_t>{1}, H5Dtype::i32, {1}));
  const H5File second = H5File::open_image(image_of("v", std::vector<std::int32_t>{2}, H5Dtype::i32, {1}));
  std::int32_t a = 0;
  std::int32_t b = 0;

  first.read("v", &a, 4);
  second.read("v", &b, 4);

  EXPECT_EQ(a, 1);
  EXPECT_EQ(b, 2);
}

TEST(H5, OpensAFileBehindAPrefix) {
  const TempFolder folder;
  const auto image = image_of("v", std::vector<std::int32_t>{1, 2, 3, 4}, H5Dtype::i32, {4});
  const std::vector<std::byte> prefix(512, std::byte{0x4b});
  const std::vector<std::span<const std::byte>> parts{prefix, image};
  write_file_durably(folder.path() / "f.h5", parts);

  const H5File file = H5File::open(folder.path() / "f.h5");

  std::int32_t last = 0;
  file.read_rows("v", 3, 1, &last);
  EXPECT_EQ(last, 4);
}

TEST(H5, ReadsTheSameFromAFileAsFromItsImage) {
  const TempFolder folder;
  H5ImageWriter writer;
  const std::vector<double> doubles{1.5, -2.5, 1e300};
  std::vector<std::uint16_t> words(5000);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint16_t>(7 * i);
  writer.dataset("x/doubles", doubles.data(), H5Dtype::f64, std::vector<std::int64_t>{3});
  writer.dataset("words", words.data(), H5Dtype::bf16, std::vector<std::int64_t>{50, 100});
  writer.dataset("none", nullptr, H5Dtype::f32, std::vector<std::int64_t>{0});
  write_file_durably(folder / "a.h5", writer.finish());

  const H5File file = H5File::open(folder / "a.h5");

  std::vector<double> doubles_read(3);
  std::vector<std::uint16_t> words_read(5000);
  file.read("x/doubles", doubles_read.data(), 24);
  file.read("words", words_read.data(), 10000);
  file.read("none", nullptr, 0);
  EXPECT_EQ(doubles_read, doubles);
  EXPECT_EQ(words_read, words);
  EXPECT_EQ(file.info("words").dtype, H5Dtype::bf16);
}

TEST(H5, NoticesAFileThatIsCutWhileOpen) {
  const TempFolder folder;
  write_file_durably(folder / "a.h5", image_of("v", std::vector<double>(1000, 1.5), H5Dtype::f64, {1000}));
  const H5File file = H5File::open(folder / "a.h5");
  std::filesystem::resize_file(folder / "a.h5", 3000);
  std::vector<double> out(1000);
  EXPECT_THROW(file.read("v", out.data(), 8000), H5Error);
  EXPECT_THROW(file.read_rows("v", 990, 10, out.data()), H5Error);
}

TEST(H5, RefusesNamesInUseAndUnusable) {
  H5ImageWriter writer;
  const float value = 1;
  writer.dataset("a/b", &value, H5Dtype::f32, {});
  for (const std::string name : {"a/b", "a/b/c", "", "/a", "a//c", "a/../c", "./x", "a/"}) {
    EXPECT_THROW(writer.dataset(name, &value, H5Dtype::f32, {}), H5Error) << name;
  }
}

TEST(H5, RefusesTruncatedForeignAndMissingFiles) {
  const TempFolder folder;
  const auto image = image_of("v", std::vector<double>(100, 1.5), H5Dtype::f64, {100});
  for (const std::size_t kept : {std::size_t{0}, std::size_t{1}, image.size() / 2, image.size() - 1}) {
    write_file_durably(folder.path() / "cut.h5", std::span(image).first(kept));
    EXPECT_THROW(H5File::open(folder.path() / "cut.h5"), H5Error) << kept;
    EXPECT_THROW(H5File::open_image(std::span(image).first(kept)), H5Error) << kept;
  }
  write_file_durably(folder.path() / "text.h5",
                     std::string_view("not at all HDF5, but quite long enough to be looked at"));
  EXPECT_THROW(H5File::open(folder.path() / "text.h5"), H5Error);
  EXPECT_THROW(H5File::open(folder.path() / "none.h5"), H5Error);
}

TEST(H5, ServesSeveralThreads) {
  std::vector<std::int64_t> values(4096);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int64_t>(i * i);
  const H5File file = H5File::open_image(image_of("t", values, H5Dtype::i64, {4096}));
  std::atomic<int> wrong{0};
  const auto work = [&](std::int64_t offset) {
    for (std::int64_t i = offset; i < 4096; i += 4) {
      std::int64_t value = -1;
      file.read_rows("t", i, 1, &value);
      if (value != i * i) ++wrong;
      if (i % 512 == 0 && image_of("x", values, H5Dtype::i64, {4096}).empty()) ++wrong;
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::int64_t i = 0; i < 4; ++i) threads.emplace_back(work, i);
  }

  EXPECT_EQ(wrong, 0);
}

TEST(Files, ReplaceDurablyAndLeaveNothingBehindOnFailure) {
  const TempFolder folder;
  const auto target = folder.path() / "a.bin";
  write_file_durably(target, std::string_view("old"));
  write_file_durably(target, std::string_view("newer"));
  EXPECT_EQ(read_file(target, 100).size(), 5U);
  EXPECT_THROW(read_file(target, 4), FileError);

  std::filesystem::create_directory(folder.path() / "taken");
  std::filesystem::create_directory(folder.path() / "taken/inside");
  try {
    write_file_durably(folder.path() / "taken", std::string_view("12345678"));
    FAIL();
  } catch (const FileError& error) {
    EXPECT_NE(std::string(error.what()).find("8 bytes needed"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("taken"), std::string::npos) << error.what();
    EXPECT_NE(error.error_number(), 0);
  }
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) ++entries;
  EXPECT_EQ(entries, 2U);
}

TEST(Files, KeepTheOldBytesWhenThereIsNoRoomForTheNew) {
  const TempFolder folder;
  write_file_durably(folder / "a.bin", std::string_view("old"));
  const std::vector<std::byte> large(100'000);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{50'000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  try {
    write_file_durably(folder / "a.bin", large);
  } catch (const FileError& error) {
    message = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);

  EXPECT_NE(message.find("100000 bytes needed"), std::string::npos) << message;
  EXPECT_EQ(read_file(folder / "a.bin", 100).size(), 3U);
  const std::filesystem::directory_iterator entries(folder.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
}

}  // namespace
}  // namespace kumiko::data
