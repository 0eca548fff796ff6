// SPDX-License-Identifier: Apache-2.0
// What `prepare` and `tokenizer train` have in common: flags that name text, and a line that tells how far
// reading is.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "data/documents.hpp"

namespace CLI {
class App;
}

namespace kumiko::tools {

// parse_bytes of the value of `flag`, which its UsageError names.
std::int64_t parse_size_flag(const char* flag, const std::string& value);

struct CorpusFlags {
  std::vector<std::string> inputs;
  std::vector<std::string> suffixes;
  std::string unit = "file";
  std::string field = "text";
  std::string max_document = "64MiB";
  bool skip_invalid = false;

  void add_to(CLI::App& command);
  data::DocumentOptions options() const;  // throws UsageError
};

// One line that is rewritten on a terminal, a plain line about every ten seconds elsewhere. Writes to
// standard error.
class ReadingProgress {
 public:
  ReadingProgress();
  void update(std::int64_t bytes_read, std::int64_t bytes_total, const std::string& details);
  void finish();  // leaves the terminal at the start of an empty line

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

}  // namespace kumiko::tools
