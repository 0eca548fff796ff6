// SPDX-License-Identifier: Apache-2.0
#include "tools/commands/corpus_flags.hpp"

#include <algorithm>
#include <iostream>

#include <CLI/CLI.hpp>
#include <unistd.h>

#include "framework/core/error.hpp"
#include "framework/core/format.hpp"

namespace kumiko::tools {

std::int64_t parse_size_flag(const char* flag, const std::string& value) {
  try {
    return parse_bytes(value);
  } catch (const UsageError& error) {
    throw UsageError(concat(flag, ": ", error.what()));
  }
}

void CorpusFlags::add_to(CLI::App& command) {
  command.add_option("input", inputs, "text or JSONL files (also .gz, .zst), or folders of them")->required();
  command
      .add_option("--suffix", suffixes,
                  "ending of the files taken from folders; may be repeated (default .txt .md .rst .text "
                  ".jsonl .ndjson)")
      ->allow_extra_args(false);
  command.add_option("--document", unit, "what one document is in a text file")
      ->check(CLI::IsMember({"file", "line", "blank-line"}))
      ->capture_default_str();
  command.add_option("--field", field, "field of JSONL objects that holds the text")->capture_default_str();
  command.add_option("--max-document", max_document, "largest document or line, unpacked")
      ->capture_default_str();
  command.add_flag("--skip-invalid", skip_invalid,
                   "pass over and count bad documents instead of stopping at the first");
}

data::DocumentOptions CorpusFlags::options() const {
  data::DocumentOptions options;
  options.inputs.assign(inputs.begin(), inputs.end());
  options.suffixes = suffixes;
  options.unit = unit == "line"         ? data::DocumentUnit::line
                 : unit == "blank-line" ? data::DocumentUnit::blank_line
                                        : data::DocumentUnit::file;
  options.field = field;
  options.skip_invalid = skip_invalid;
  options.max_document_bytes = parse_size_flag("--max-document", max_document);
  return options;
}

ReadingProgress::ReadingProgress() : terminal_(::isatty(STDERR_FILENO) == 1) {}

void ReadingProgress::update(std::int64_t bytes_read, std::int64_t bytes_total, const std::string& details) {
  const auto now = Clock::now();
  const auto pause = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10'000);
  if (now - last_ < pause) return;
  last_ = now;
  const double part = bytes_total > 0
                          ? std::min(1.0, static_cast<double>(bytes_read) / static_cast<double>(bytes_total))
                          : 1.0;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(part * kWidth);
  const std::string percent = std::to_string(static_cast<int>(part * 100)) + "%";
  const std::string left = part > 0.01 ? ", " + format_duration(seconds / part - seconds) + " left" : "";
  if (terminal_) {
    std::cerr << "\r\x1b[K[" << std::string(filled, '#') << std::string(kWidth - filled, '.') << "] ";
  }
  std::cerr << percent << " of " << format_bytes(bytes_total) << ", " << details << left;
  if (!terminal_) std::cerr << '\n';
  std::cerr.flush();
  shown_ = true;
}

void ReadingProgress::finish() {
  if (terminal_ && shown_) std::cerr << "\r\x1b[K" << std::flush;
  shown_ = false;
}

}  // namespace kumiko::tools
