// SPDX-License-Identifier: Apache-2.0
#include "quant/codec.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"

namespace kumiko::quant {
namespace {

TEST(Codec, IsFoundByEveryNameItHas) {
  for (const std::string_view name : codec_names()) EXPECT_EQ(codec_of(parse_codec(name)).name, name);
  EXPECT_THAT(codec_names(), testing::ElementsAre("none", "nf4", "fp4", "int4", "int8"));
}

TEST(Codec, NamesTheKnownOnesWhenItIsUnknown) {
  try {
    parse_codec("nf5");
    FAIL() << "no error";
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(), "unknown quantization 'nf5'; known: none, nf4, fp4, int4, int8");
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

TEST(Codec, RoundsTheBytesOfAnOddCountUp) {
  const Codec& nf4 = codec_of(CodecKind::nf4);
  EXPECT_EQ(nf4.code_bytes(0), 0);
  EXPECT_EQ(nf4.code_bytes(15), 8);
  EXPECT_EQ(nf4.code_bytes(64 * 5461), 174752);
}

TEST(QuantFormat, AcceptsPowersOfTwoFrom32To4096Only) {
  for (std::int64_t size = 32; size <= 4096; size *= 2) EXPECT_NO_THROW(validate({.block_size = size}));
  for (const std::int64_t size : {-64, 0, 16, 33, 48, 96, 4095, 8192}) {
    EXPECT_THROW(validate({.block_size = size}), UsageError) << size;
  }
}

TEST(QuantFormat, ComparesWhatMatters) {
  EXPECT_EQ((QuantFormat{.codec = CodecKind::none, .block_size = 64}),
            (QuantFormat{.codec = CodecKind::none, .block_size = 32}));
  EXPECT_NE(QuantFormat{}, (QuantFormat{.block_size = 32}));
  EXPECT_NE(QuantFormat{}, (QuantFormat{.double_quant = false}));
  EXPECT_NE(QuantFormat{}, (QuantFormat{.codec = CodecKind::none}));
}

TEST(QuantFormat, DescribesItself) {
  EXPECT_EQ(describe({}), "nf4, block 64, double quantization");
  EXPECT_EQ(describe({.block_size = 128, .double_quant = false}), "nf4, block 128");
  EXPECT_EQ(describe({.codec = CodecKind::none}), "none");
}

}  // namespace
}  // namespace kumiko::quant
