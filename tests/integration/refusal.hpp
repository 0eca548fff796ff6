// SPDX-License-Identifier: Apache-2.0
// What every refusal owes its reader.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/integration/kumiko_run.hpp"

namespace kumiko::test {

// One error line that has all of `words`, the exit code, and nothing of the program's inside.
inline void expect_refusal(const Finished& result, int exit_code, const std::vector<std::string>& words) {
  EXPECT_EQ(result.exit_code, exit_code) << result.output;
  const std::size_t at = result.output.find("kumiko: error: ");
  ASSERT_NE(at, std::string::npos) << result.output;
  const std::string error = result.output.substr(at);
  EXPECT_EQ(error.find("kumiko: error: ", 1), std::string::npos) << result.output;
  for (const auto& word : words) EXPECT_THAT(error, ::testing::HasSubstr(word));
  for (const char* inside : {"internal error", "terminate called", "what():", "c10", "std::", "Exception", "backtrace", "frame #", "Aborted"}) {
    EXPECT_EQ(result.output.find(inside), std::string::npos) << inside << " in " << result.output;
  }
}

// Every file below a folder with its bytes.
inline std::map<std::string, std::string> content_of(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& item : std::filesystem::recursive_directory_iterator(folder)) {
    if (item.is_regular_file()) files[std::filesystem::relative(item.path(), folder).string()] = read_text(item.path());
  }
  return files;
}

inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

inline void flip_bit(const std::filesystem::path& file, std::size_t at) {
  std::string bytes = read_text(file);
  ASSERT_LT(at, bytes.size());
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  write_text(file, bytes);
}

}  // namespace kumiko::test
