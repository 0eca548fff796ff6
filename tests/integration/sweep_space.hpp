// SPDX-License-Identifier: Apache-2.0
// A workspace with a sweep whose runs last about a second.
#pragma once

#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <sys/file.h>

#include "tests/integration/refusal.hpp"

namespace kumiko::test {

class SweepSpace : public Workspace {
 public:
  // `sweep`: variants, seeds and the like.
  explicit SweepSpace(const std::string& sweep) { write_sweep(sweep); }

  void write_sweep(const std::string& sweep) const {
    write_text(*this / "sweep.yaml", R"(base: recipe.yaml
recipe:
  data.prepare.selection: 0.1
  train: {steps: 24, global_batch_size: 8, threads: 1}
  eval.every: 12
  log.tensorboard: false
output_dir: out
)" + sweep);
  }
  Finished ablate(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"ablate", "sweep.yaml"});
    return kumiko(more);
  }

  // The table's cells by variant and column.
  std::map<std::string, std::map<std::string, std::string>> table(const std::string& folder = "out") const {
    std::map<std::string, std::map<std::string, std::string>> rows;
    std::istringstream in(read_text(*this / (folder + "/table.csv")));
    std::string line;
    std::getline(in, line);
    const std::vector<std::string> names = split(line);
    while (std::getline(in, line)) {
      const std::vector<std::string> cells = split(line);
      EXPECT_EQ(cells.size(), names.size()) << line;
      for (std::size_t i = 0; i < std::min(cells.size(), names.size()); ++i)
        rows[cells[0]][names[i]] = cells[i];
    }
    return rows;
  }
  // The table without what depends on the clock and on other processes.
  std::map<std::string, std::map<std::string, std::string>> timeless_table(
      const std::string& folder = "out") const {
    auto rows = table(folder);
    for (auto& [name, cells] : rows) {
      for (const char* column : {"tokens_per_s", "refresh_seconds", "refresh_share", "peak_bytes"})
        cells.erase(column);
    }
    return rows;
  }

  // Run folders below the output folder that some process holds.
  std::vector<std::string> held_runs(const std::string& folder = "out") const {
    std::vector<std::string> held;
    if (!std::filesystem::exists(*this / folder)) return held;
    for (const auto& item : std::filesystem::recursive_directory_iterator(*this / folder)) {
      if (item.path().filename() != "run.lock") continue;
      const int lock = ::open(item.path().c_str(), O_RDWR | O_CLOEXEC);
      if (lock >= 0 && ::flock(lock, LOCK_EX | LOCK_NB) != 0) held.push_back(item.path().string());
      ::close(lock);
    }
    return held;
  }

 private:
  // Fields of a line of CSV; none holds a line end.
  static std::vector<std::string> split(const std::string& line) {
    std::vector<std::string> cells(1);
    bool quoted = false;
    for (const char c : line) {
      if (c == '"') {
        quoted = !quoted;
      } else if (c == ',' && !quoted) {
        cells.emplace_back();
      } else {
        cells.back() += c;
      }
    }
    return cells;
  }
};

}  // namespace kumiko::test
