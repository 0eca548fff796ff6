// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace kumiko {

// Who holds a run folder: the content of RUN/run.lock.
struct RunHolder {
  std::string host;
  std::int64_t pid = 0;
  std::string boot_id;           // of the kernel: differs after every restart of a machine
  std::int64_t start_ticks = 0;  // of the process, since boot: tells it from a later one with the same pid
  std::string since;             // UTC, for messages

  static RunHolder self();
  static std::optional<RunHolder> parse(std::string_view text);
  std::string to_text() const;
  std::string describe() const;  // "process 4711 on host attic since 2026-01-31 12:00:00 UTC"
};

// Makes and owns RUN for the life of one run; rank 0 only. The lock is flock(2) on RUN/run.lock, which the
// kernel drops when the process dies however it dies, plus the holder's name in it: what is found there after
// a lock is a dead run's. On file systems whose flock other hosts do not see, another host's holder is taken
// to be alive.
class RunFolder {
 public:
  // Makes the folder and its parents and checks that it can be written. Throws UsageError naming the path and
  // the reason when it cannot, or naming the holder when another run has it.
  explicit RunFolder(std::filesystem::path path);
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;
  ~RunFolder();  // releases the lock

  const std::filesystem::path& path() const noexcept { return path_; }
  // A run that died with the lock, for a message; nothing after a clean end.
  const std::optional<RunHolder>& dead_holder() const noexcept { return dead_holder_; }

  // Writes RUN/recipe.yaml durably. Throws UsageError.
  void write_recipe(std::string_view resolved_yaml) const;
  // True once for each RUN/stop that someone made: the file is removed.
  bool take_stop_request() const;

 private:
  void check_writable() const;
  void lock();

  std::filesystem::path path_;
  int lock_ = -1;
  std::optional<RunHolder> dead_holder_;
};

}  // namespace kumiko
