// SPDX-License-Identifier: Apache-2.0
#include "framework/train/metrics.hpp"

#include <cerrno>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <optional>
#include <system_error>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/log.hpp"
#include "framework/train/durable_stream.hpp"
#include "framework/train/strict_json.hpp"

namespace kumiko {
namespace {

constexpr std::size_t kMaxLineBytes = 1 << 20;
constexpr std::size_t kMaxTailBytes = 4 << 20;
constexpr int kMaxDepth = 8;

nlohmann::ordered_json to_json(double real) {
  if (std::isnan(real)) return "nan";
  if (std::isinf(real)) return real > 0 ? "inf" : "-inf";
  return real;
}

nlohmann::ordered_json to_json(const MetricTable& table) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::object();
  for (const auto& [row, columns] : table) {
    for (const auto& [column, number] : columns) rows[row][column] = to_json(number);
  }
  return rows;
}

nlohmann::ordered_json to_json(const MetricValue& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return *integer;
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* table = std::get_if<MetricTable>(&value)) return to_json(*table);
  return to_json(std::get<double>(value));
}

std::string dump(const nlohmann::ordered_json& object) {
  return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::optional<std::int64_t> step_of(const std::string& line) {
  if (line.empty() || line.size() > kMaxLineBytes) return std::nullopt;
  try {
    const auto object = parse_strict_json(line, kMaxDepth);
    if (!object.is_object() || !object.contains("step") || !object["step"].is_number_integer())
      return std::nullopt;
    return object["step"].get<std::int64_t>();
  } catch (const std::runtime_error&) {
    return std::nullopt;
  }
}

struct Kept {
  std::int64_t last_step = -1;
  std::string last_line;  // without its newline
  std::int64_t bytes = 0;
  std::int64_t unreadable = 0;
};

// Hands the lines to keep to `keep` and says what they were.
Kept filter_lines(const std::filesystem::path& file, std::int64_t resumed_step,
                  const std::function<void(const std::string&)>& keep) {
  Kept kept;
  std::ifstream in(file, std::ios::binary);
  std::string line;
  while (std::getline(in, line)) {
    if (in.eof()) break;  // torn: no newline behind it
    const auto step = step_of(line);
    if (!step || (*step <= kept.last_step && *step <= resumed_step)) {
      ++kept.unreadable;
    } else if (*step <= resumed_step) {
      kept.last_step = *step;
      kept.last_line = line;
      kept.bytes += static_cast<std::int64_t>(line.size()) + 1;
      keep(line);
    }
  }
  return kept;
}

}  // namespace

std::string to_json_line(std::int64_t step, const MetricFields& fields) {
  nlohmann::ordered_json object;
  object["step"] = step;
  for (const auto& [key, value] : fields) object[key] = to_json(value);
  return dump(object);
}

MetricsLog::MetricsLog(std::filesystem::path file, std::int64_t resumed_step) : file_(std::move(file)) {
  try {
    std::error_code no_file;
    const auto size = std::filesystem::file_size(file_, no_file);
    if (!no_file) {
      const Kept kept = filter_lines(file_, resumed_step, [](const std::string&) {});
      if (kept.bytes != static_cast<std::int64_t>(size)) {
        DurableStream out(file_, kept.bytes);
        filter_lines(file_, resumed_step, [&out](const std::string& line) { out.write(line + "\n"); });
        out.commit();
      }
      if (kept.unreadable > 0) {
        log::warning(concat(file_.string(), ": dropped ", kept.unreadable, " unreadable line(s)"));
      }
      last_step_ = kept.last_step;
      if (kept.bytes > 0) tail_ = kept.last_line + "\n";
      base_ = kept.bytes - static_cast<std::int64_t>(tail_.size());
    }
  } catch (const FileError& error) {
    throw UsageError(concat(error.what(), "; choose another output_dir or make room"));
  }
  descriptor_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  KUMIKO_EXPECTS(descriptor_ >= 0, UsageError, "cannot open ", file_.string(), ": ",
                 std::generic_category().message(errno),
                 "; choose another output_dir or change its permissions");
}

MetricsLog::~MetricsLog() {
  flush();
  ::close(descriptor_);
}

void MetricsLog::add(std::int64_t step, const MetricFields& fields) {
  TORCH_INTERNAL_ASSERT(step >= last_step_, "metrics of step ", step, " come after those of step ",
                        last_step_);
  if (step == last_step_ && last_line_ < tail_.size()) {
    auto object = nlohmann::ordered_json::parse(std::string_view(tail_).substr(last_line_));
    for (const auto& [key, value] : fields) object[key] = to_json(value);
    tail_.resize(last_line_);
    tail_ += dump(object) + "\n";
  } else {
    if (clean_) {
      base_ += static_cast<std::int64_t>(tail_.size());
      tail_.clear();
    }
    const std::string line = to_json_line(step, fields) + "\n";
    if (tail_.size() + line.size() > kMaxTailBytes) return;
    last_line_ = tail_.size();
    tail_ += line;
    last_step_ = step;
  }
  clean_ = false;
  flush();
}

void MetricsLog::flush() {
  std::size_t done = 0;
  while (!clean_ && done < tail_.size()) {
    const ssize_t written = ::pwrite(descriptor_, tail_.data() + done, tail_.size() - done,
                                     static_cast<off_t>(base_ + static_cast<std::int64_t>(done)));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const int reason = errno;
      const std::size_t whole = done == 0 ? 0 : tail_.rfind('\n', done - 1) + 1;  // npos + 1 is 0
      const bool cut =
          ::ftruncate(descriptor_, static_cast<off_t>(base_ + static_cast<std::int64_t>(whole))) == 0;
      if (!warned_) {
        log::warning(concat(
            "cannot write ", file_.string(), ": ", std::generic_category().message(reason),
            cut ? "; the lines are kept and written when there is room" : "; its last line may be torn"));
      }
      warned_ = true;
      return;
    }
    done += static_cast<std::size_t>(written);
  }
  if (!clean_ && ::ftruncate(descriptor_, static_cast<off_t>(base_ + static_cast<std::int64_t>(done))) != 0)
    return;
  clean_ = true;
  warned_ = false;
}

void MetricsLog::sync() {
  flush();
  if (::fsync(descriptor_) != 0) {
    log::warning(concat("cannot sync ", file_.string(), ": ", std::generic_category().message(errno)));
  }
}

}  // namespace kumiko
