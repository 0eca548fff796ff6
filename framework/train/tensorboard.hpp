// SPDX-License-Identifier: Apache-2.0
// Event files that TensorBoard reads: TFRecord framing (masked CRC-32C) around hand-encoded tensorflow.Event
// messages.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kumiko {

// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78) of `bytes`.
std::uint32_t crc32c(std::string_view bytes) noexcept;

// Rank 0 only. Writing never ends a run: a failure is warned of once and the file is left as it is.
class TensorBoardWriter {
 public:
  // Makes FOLDER/events.out.tfevents.TIME.HOST.PID. With resumed_step >= 0 it begins with a SessionLog START
  // at resumed_step + 1, at which TensorBoard drops the points that an interrupted run wrote beyond
  // resumed_step. Throws UsageError when the file cannot be made.
  TensorBoardWriter(const std::filesystem::path& folder, std::int64_t resumed_step);
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;
  ~TensorBoardWriter();

  void scalar(std::string_view tag, std::int64_t step,
              double value);  // stored as fp32, as TensorBoard has it
  // All values of a step as one event: one write.
  void scalars(std::int64_t step, std::span<const std::pair<std::string, double>> values);

  const std::filesystem::path& file() const noexcept { return file_; }

 private:
  void write_record(std::string_view message);

  std::filesystem::path file_;
  int descriptor_ = -1;
  bool failed_ = false;
};

}  // namespace kumiko
