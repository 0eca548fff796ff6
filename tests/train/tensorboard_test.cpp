// SPDX-License-Identifier: Apache-2.0
#include "framework/train/tensorboard.hpp"

#include <cstring>
#include <limits>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/support/temp_folder.hpp"
#include "tests/train/sample_state.hpp"

namespace kumiko {
namespace {

using ::testing::ElementsAre;
using test::TempFolder;

// Bit by bit, unlike the table of the writer.
std::uint32_t slow_crc32c(const std::string& bytes) {
  std::uint32_t remainder = 0xffffffff;
  for (const char byte : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool top = ((remainder ^ static_cast<unsigned char>(byte) >> bit) & 1) != 0;
      remainder = remainder / 2;
      if (top) remainder ^= 0x82f63b78;
    }
  }
  return remainder ^ 0xffffffff;
}

std::uint32_t slow_mask(std::uint32_t crc) { return (crc / 32768 | crc * 131072U) + 0xa282ead8U; }

struct Field {
  std::uint64_t number = 0;
  std::uint64_t word = 0;  // of wire types 0, 1, 5
  std::string bytes;       // of wire type 2
};

class Decoder {
 public:
  explicit Decoder(std::string bytes) : bytes_(std::move(bytes)) {}
  std::vector<Field> fields() {
    std::vector<Field> result;
    while (at_ < bytes_.size()) {
      const std::uint64_t tag = varint();
      Field field{.number = tag / 8};
      switch (tag % 8) {
        case 0:
          field.word = varint();
          break;
        case 1:
          field.word = fixed(8);
          break;
        case 2:
          field.bytes = take(varint());
          break;
        case 5:
          field.word = fixed(4);
          break;
        default:
          throw std::runtime_error("bad wire type");
      }
      result.push_back(field);
    }
    return result;
  }
  std::uint64_t fixed(std::size_t count) {
    const std::string bytes = take(count);
    std::uint64_t word = 0;
    for (std::size_t i = count; i-- > 0;) word = word * 256 + static_cast<unsigned char>(bytes[i]);
    return word;
  }
  std::string take(std::size_t count) {
    if (count > bytes_.size() - at_) throw std::runtime_error("record ends early");
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }
  bool at_end() const { return at_ == bytes_.size(); }

 private:
  std::uint64_t varint() {
    std::uint64_t word = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      word += std::uint64_t{byte & 127U} << shift;
      if (byte < 128) return word;
    }
  }
  std::string bytes_;
  std::size_t at_ = 0;
};

struct Event {
  double wall_time = 0;
  std::int64_t step = 0;
  std::string version;
  std::optional<std::uint64_t> session_status;
  std::vector<std::pair<std::string, float>> scalars;
};

Event decode_event(const std::string& message) {
  Event event;
  for (const Field& field : Decoder(message).fields()) {
    if (field.number == 1) std::memcpy(&event.wall_time, &field.word, 8);
    if (field.number == 2) event.step = static_cast<std::int64_t>(field.word);
    if (field.number == 3) event.version = field.bytes;
    if (field.number == 7) event.session_status = Decoder(field.bytes).fields().at(0).word;
    if (field.number != 5) continue;
    for (const Field& value : Decoder(field.bytes).fields()) {
      std::pair<std::string, float> scalar;
      for (const Field& part : Decoder(value.bytes).fields()) {
        if (part.number == 1) scalar.first = part.bytes;
        if (part.number == 2) std::memcpy(&scalar.second, &part.word, 4);
      }
      event.scalars.push_back(scalar);
    }
  }
  return event;
}

std::vector<Event> read_events(const std::filesystem::path& file) {
  Decoder records(test::read_text(file));
  std::vector<Event> events;
  while (!records.at_end()) {
    const std::string header = records.take(8);
    EXPECT_EQ(records.fixed(4), slow_mask(slow_crc32c(header)));
    const std::string message = records.take(Decoder(header).fixed(8));
    EXPECT_EQ(records.fixed(4), slow_mask(slow_crc32c(message)));
    events.push_back(decode_event(message));
  }
  return events;
}

// RFC 3720, B.4.
TEST(Crc32c, GivesTheKnownAnswers) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  EXPECT_EQ(crc32c(""), 0U);
}

TEST(TensorBoardWriter, WritesEventsThatDecode) {
  TempFolder run;
  TensorBoardWriter writer(run / "tensorboard", -1);
  const std::vector<std::pair<std::string, double>> values{{"train/loss", 4.25}, {"train/lr", 0.01}};

  writer.scalars(300, values);
  writer.scalar("eval/ppl", std::int64_t{1} << 40, std::numeric_limits<double>::infinity());

  EXPECT_TRUE(writer.file().filename().string().starts_with("events.out.tfevents.1") ||
              writer.file().filename().string().starts_with("events.out.tfevents.2"));
  const auto events = read_events(writer.file());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_GT(events[0].wall_time, 1.7e9);
  EXPECT_EQ(events[1].step, 300);
  EXPECT_THAT(events[1].scalars, ElementsAre(std::pair("train/loss", 4.25F), std::pair("train/lr", 0.01F)));
  EXPECT_EQ(events[2].step, std::int64_t{1} << 40);
  EXPECT_THAT(events[2].scalars, ElementsAre(std::pair("eval/ppl", std::numeric_limits<float>::infinity())));
}

TEST(TensorBoardWriter, BeginsAResumeWithAStartThatPurgesLaterSteps) {
  TempFolder run;
  TensorBoardWriter first(run.path(), -1);
  TensorBoardWriter second(run.path(), 50);

  second.scalar("loss", 51, 1.0);

  EXPECT_NE(first.file(), second.file());
  const auto events = read_events(second.file());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[1].session_status, 1u);
  EXPECT_EQ(events[1].step, 51);
  EXPECT_EQ(events[2].step, 51);
}

TEST(TensorBoardWriter, IsRefusedWhereNoFileCanBe) {
  TempFolder run;
  test::write_text(run / "file", "");

  EXPECT_THROW(TensorBoardWriter(run / "file", -1), UsageError);
}

}  // namespace
}  // namespace kumiko
