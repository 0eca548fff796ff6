// SPDX-License-Identifier: Apache-2.0
#include "framework/train/tensorboard.hpp"

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <climits>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include "framework/core/error.hpp"
#include "framework/core/log.hpp"

namespace kumiko {
namespace {

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78U : 0U);
    table[i] = value;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

// TFRecord stores checksums rotated and offset, so that a checksum of data that holds checksums stays a good
// one.
std::uint32_t masked_crc(std::string_view bytes) noexcept {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8U;
}

template <class Word>
void put_fixed(std::string& out, Word word) {
  for (std::size_t i = 0; i < sizeof(Word); ++i) out.push_back(static_cast<char>(word >> (8 * i) & 0xff));
}

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

// Field tags of protobuf: number and wire type (0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes).
void put_tag(std::string& out, std::uint32_t field, std::uint32_t wire) {
  put_varint(out, field << 3 | wire);
}

void put_bytes(std::string& out, std::uint32_t field, std::string_view bytes) {
  put_tag(out, field, 2);
  put_varint(out, bytes.size());
  out += bytes;
}

// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog
// session_log = 7; }
std::string begin_event(std::int64_t step) {
  const double wall_time =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  std::string event;
  put_tag(event, 1, 1);
  put_fixed(event, std::bit_cast<std::uint64_t>(wall_time));
  put_tag(event, 2, 0);
  put_varint(event, static_cast<std::uint64_t>(step));
  return event;
}

// Summary { repeated Value value = 1; }   Value { string tag = 1; float simple_value = 2; }
void put_scalar(std::string& summary, std::string_view tag, double value) {
  std::string encoded;
  put_bytes(encoded, 1, tag);
  put_tag(encoded, 2, 5);
  put_fixed(encoded, std::bit_cast<std::uint32_t>(static_cast<float>(value)));
  put_bytes(summary, 1, encoded);
}

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 && name[0] != '\0' ? name.data() : "localhost";
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) noexcept {
  std::uint32_t crc = 0xffffffffU;
  for (const char byte : bytes) crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder, std::int64_t resumed_step) {
  std::error_code ignored;  // a failure shows at open
  std::filesystem::create_directories(folder, ignored);
  auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  do {
    file_ = folder / concat("events.out.tfevents.", seconds++, ".", host_name(), ".", ::getpid());
    descriptor_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  KUMIKO_EXPECTS(descriptor_ >= 0, UsageError, "cannot create ", file_.string(), ": ",
                 std::generic_category().message(errno),
                 "; choose another output_dir, change its permissions or set log.tensorboard=false");
  std::string version = begin_event(0);
  put_bytes(version, 3, "brain.Event:2");
  write_record(version);
  if (resumed_step >= 0) {
    std::string start = begin_event(resumed_step + 1);
    std::string session;
    put_tag(session, 1, 0);  // SessionLog.status = START
    put_varint(session, 1);
    put_bytes(start, 7, session);
    write_record(start);
  }
}

TensorBoardWriter::~TensorBoardWriter() { ::close(descriptor_); }

void TensorBoardWriter::scalar(std::string_view tag, std::int64_t step, double value) {
  const std::array<std::pair<std::string, double>, 1> one{{{std::string(tag), value}}};
  scalars(step, one);
}

void TensorBoardWriter::scalars(std::int64_t step, std::span<const std::pair<std::string, double>> values) {
  std::string summary;
  for (const auto& [tag, value] : values) put_scalar(summary, tag, value);
  std::string event = begin_event(step);
  put_bytes(event, 5, summary);
  write_record(event);
}

void TensorBoardWriter::write_record(std::string_view message) {
  if (failed_) return;
  std::string record;
  put_fixed(record, static_cast<std::uint64_t>(message.size()));
  put_fixed(record, masked_crc(record));
  record += message;
  put_fixed(record, masked_crc(message));
  std::string_view rest = record;
  while (!rest.empty()) {
    const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      failed_ = true;  // a torn record hides all that would follow it in this file
      log::warning(concat("cannot write ", file_.string(), ": ", std::generic_category().message(errno),
                          "; no more TensorBoard events from this run; metrics.jsonl goes on"));
      return;
    }
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace kumiko
