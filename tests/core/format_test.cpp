// SPDX-License-Identifier: Apache-2.0
#include "framework/core/format.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

TEST(FormatBytes, PicksTheUnit) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1 KiB");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(3 * 512 * 1024 * 1024LL), "1.5 GiB");
  EXPECT_EQ(format_bytes(24LL << 30), "24 GiB");
  EXPECT_EQ(format_bytes((24LL << 30) + (1 << 28)), "24.2 GiB");
  EXPECT_EQ(format_bytes(123 * 1024 + 500), "123 KiB");
  EXPECT_EQ(format_bytes((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(format_bytes(-2048), "-2 KiB");
  EXPECT_EQ(format_bytes(INT64_MAX), "8 EiB");
  EXPECT_EQ(format_bytes(INT64_MIN), "-8 EiB");
}

TEST(FormatCount, KeepsThreeDigits) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1K");
  EXPECT_EQ(format_count(1500), "1.5K");
  EXPECT_EQ(format_count(58073600), "58.1M");
  EXPECT_EQ(format_count(367969280), "368M");
  EXPECT_EQ(format_count(1339082752), "1.34B");
  EXPECT_EQ(format_count(999999), "1M");
  EXPECT_EQ(format_count(9996), "10K");
  EXPECT_EQ(format_count(13100000000), "13.1B");
  EXPECT_EQ(format_count(-1500), "-1.5K");
}

TEST(FormatDuration, ShowsTheTwoLargestUnits) {
  EXPECT_EQ(format_duration(0), "0.0s");
  EXPECT_EQ(format_duration(0.42), "0.4s");
  EXPECT_EQ(format_duration(9.96), "10s");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(59.6), "1m 00s");
  EXPECT_EQ(format_duration(185), "3m 05s");
  EXPECT_EQ(format_duration(3599.7), "1h 00m");
  EXPECT_EQ(format_duration(3725), "1h 02m");
  EXPECT_EQ(format_duration(2 * 86400 + 3 * 3600 + 59), "2d 03h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::quiet_NaN()), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(FormatReal, IsShortAndReadsBackExactly) {
  EXPECT_EQ(format_real(0.01), "0.01");
  EXPECT_EQ(format_real(2), "2.0");
  EXPECT_EQ(format_real(1e-6), "1.0e-06");
  EXPECT_EQ(format_real(1.5e300), "1.5e+300");
  std::uint64_t bits = 1;
  for (int i = 0; i < 20000; ++i) {
    bits = bits * 6364136223846793005ULL + 1442695040888963407ULL;
    double value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    if (!std::isfinite(value)) continue;
    const std::optional<double> again = parse_real(format_real(value));
    ASSERT_TRUE(again.has_value()) << format_real(value);
    ASSERT_EQ(std::memcmp(&*again, &value, sizeof(value)), 0) << format_real(value);
  }
}

TEST(ParseNumbers, RefuseOtherGrammars) {
  EXPECT_EQ(parse_integer("1_000"), 1000);
  EXPECT_EQ(parse_integer("-9223372036854775808"), INT64_MIN);
  EXPECT_EQ(parse_real("-0"), -0.0);
  EXPECT_EQ(parse_real("12_345.678_9e-1_0"), 12345.6789e-10);
  EXPECT_EQ(parse_real("4.9e-324"), std::numeric_limits<double>::denorm_min());
  for (const char* text :
       {"", "-", "+", "1.0", "0123", "1e3", " 1", "1 ", "1_", "0x1", "9223372036854775808"}) {
    EXPECT_EQ(parse_integer(text), std::nullopt) << text;
  }
  for (const char* text : {"", "-", ".", "-.", "e5", ".e5", "1e", "1e+", "00.5", "1..2", "1e1.5", "inf",
                           "nan", "1e400", "1e-400", "._5"}) {
    EXPECT_EQ(parse_real(text), std::nullopt) << text;
  }
}

TEST(ParseBytes, TakesBinaryAndDecimalUnits) {
  EXPECT_EQ(parse_bytes("24GiB"), 24LL << 30);
  EXPECT_EQ(parse_bytes("64MiB"), 64LL << 20);
  EXPECT_EQ(parse_bytes("64 mib"), 64LL << 20);
  EXPECT_EQ(parse_bytes("1.5G"), 3LL << 29);
  EXPECT_EQ(parse_bytes("10MB"), 10000000);
  EXPECT_EQ(parse_bytes("2kB"), 2000);
  EXPECT_EQ(parse_bytes("2k"), 2048);
  EXPECT_EQ(parse_bytes("1_000"), 1000);
  EXPECT_EQ(parse_bytes("12B"), 12);
  EXPECT_EQ(parse_bytes("9007199254740993"), 9007199254740993);
}

TEST(ParseBytes, SaysWhatItNeeds) {
  const auto message = [](const char* text) -> std::string {
    try {
      return format_bytes(parse_bytes(text));
    } catch (const UsageError& error) {
      return error.what();
    }
  };

  for (const std::string text : {"", "GiB", "-1G", "24 gigs", "1e", "24  GiB", "0x10", "nan", "5 iB"}) {
    EXPECT_EQ(message(text.c_str()),
              "found '" + text + "', needed a size such as 24GiB, 512MiB or 1_000_000");
  }
  EXPECT_EQ(message("9000000TiB"), "found '9000000TiB', needed a size below 8 EiB");
  EXPECT_EQ(message("8388608TiB"), "found '8388608TiB', needed a size below 8 EiB");
}

}  // namespace
}  // namespace kumiko
