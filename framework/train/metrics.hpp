// SPDX-License-Identifier: Apache-2.0
// metrics.jsonl: one JSON object a step, steps strictly increasing, also after a resume.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace kumiko {

// Numbers by row and name: {"layers": {"model.layers.0.mlp.up_proj": {"captured_energy": 0.93}}}.
using MetricTable = std::vector<std::pair<std::string, std::vector<std::pair<std::string, double>>>>;
using MetricValue = std::variant<std::int64_t, double, std::string, MetricTable>;
using MetricFields = std::vector<std::pair<std::string, MetricValue>>;

// {"step":12,"loss":4.25}: doubles read back equal; NaN and infinities, which JSON has not, as the
// texts "nan", "inf", "-inf".
std::string to_json_line(std::int64_t step, const MetricFields& fields);

// Writing never ends a run: lines that a full disk refuses are kept (up to 4 MiB) and written when there is
// room again, after one warning. Rank 0 only.
class MetricsLog {
 public:
  // Goes on in `file`: lines of steps beyond `resumed_step`, a torn last line and lines that are no metrics
  // are dropped first (a warning says how many were unreadable). -1 for a run that begins anew. Throws
  // UsageError when the file cannot be opened.
  MetricsLog(std::filesystem::path file, std::int64_t resumed_step);
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;
  ~MetricsLog();

  // Steps must not decrease. Fields for the step of the last line join that line, so an evaluation at a
  // logged step gives one object. Call it before the checkpoint of that step is saved: what a resume finds
  // then includes it.
  void add(std::int64_t step, const MetricFields& fields);
  // Syncs to the disk: called before a checkpoint is saved, so that no line up to it can be lost.
  void sync();

  std::int64_t last_step() const noexcept { return last_step_; }

 private:
  void flush();

  std::filesystem::path file_;
  int descriptor_ = -1;
  std::int64_t last_step_ = -1;
  std::int64_t base_ = 0;      // bytes of the file in front of the tail
  std::string tail_;           // the last line and older ones that could not be written yet
  std::size_t last_line_ = 0;  // where the last line begins in the tail
  bool clean_ = true;          // the tail is in the file
  bool warned_ = false;
};

}  // namespace kumiko
