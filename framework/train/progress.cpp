// SPDX-License-Identifier: Apache-2.0
#include "framework/train/progress.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include <sys/ioctl.h>
#include <unistd.h>

#include "framework/core/error.hpp"
#include "framework/core/format.hpp"

namespace kumiko {
namespace {

constexpr int kFallbackColumns = 80;
constexpr int kBarColumns = 26;

template <class... Args>
std::string print(const char* format, Args... args) {
  std::array<char, 128> text{};
  std::snprintf(text.data(), text.size(), format, args...);
  return text.data();
}

std::string format_ppl(double ppl) {
  if (!std::isfinite(ppl)) return print("%f", ppl);
  return ppl < 1e5 ? print("%.*f", ppl < 100 ? (ppl < 10 ? 2 : 1) : 0, ppl) : print("%.2e", ppl);
}

std::string format_rate(double per_second) {
  if (!std::isfinite(per_second)) return print("%f", per_second);
  if (per_second < 1e3) return print("%.0f", per_second);
  return per_second < 1e6 ? print("%.1fk", per_second / 1e3) : print("%.2fM", per_second / 1e6);
}

// "1.2/1.4 GiB": both in the unit of the peak.
std::string format_memory(std::int64_t now, std::int64_t peak) {
  static constexpr std::array<const char*, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  double scale = 1.0;
  while (unit + 1 < kUnits.size() && static_cast<double>(peak) / scale >= 1000.0) {
    scale *= 1024.0;
    ++unit;
  }
  const int digits = unit == 0 ? 0 : 1;
  return print("%.*f/%.*f %s", digits, static_cast<double>(now) / scale, digits,
               static_cast<double>(peak) / scale, kUnits[unit]);
}

int terminal_columns() {
  struct winsize size {};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kFallbackColumns;
}

}  // namespace

std::string format_step(const StepLine& line) {
  const int width = static_cast<int>(std::to_string(line.total).size());
  std::string text = concat("step ", print("%*lld", width, static_cast<long long>(line.step)), "/",
                            line.total, " | loss ", print("%.4f", line.loss));
  if (line.ppl) text += " | ppl " + format_ppl(*line.ppl);
  if (line.lr) text += " | lr " + print("%.1e", *line.lr);
  if (line.grad_norm)
    text += " | grad " +
            print(*line.grad_norm < 1e-2 || *line.grad_norm >= 1e4 ? "%.2e" : "%.2f", *line.grad_norm);
  if (line.tokens_per_s) text += " | " + format_rate(*line.tokens_per_s) + " tok/s";
  if (line.mfu) text += " | mfu " + print(*line.mfu < 0.1 ? "%.1f %%" : "%.0f %%", *line.mfu * 100.0);
  if (line.memory_bytes) {
    text +=
        " | mem " + format_memory(*line.memory_bytes,
                                  std::max(line.peak_bytes.value_or(*line.memory_bytes), *line.memory_bytes));
  }
  if (line.merges) text += concat(" | merges ", *line.merges);
  if (line.eta_seconds) text += " | eta " + format_duration(*line.eta_seconds);
  return text;
}

std::string format_bar(std::int64_t done, std::int64_t total, int width) {
  const double share =
      total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0.0;
  const std::string percent = print("] %d %%", static_cast<int>(share * 100.0));
  const int cells = std::max(1, width - 1 - static_cast<int>(percent.size()));
  const int filled = static_cast<int>(share * cells);
  return "[" + std::string(static_cast<std::size_t>(filled), '#') +
         std::string(static_cast<std::size_t>(cells - filled), '.') + percent;
}

Progress::Progress(std::int64_t total, Style style)
    : total_(total),
      is_bar_(style == Style::bar || (style == Style::automatic && ::isatty(STDERR_FILENO) == 1)) {}

Progress::~Progress() { finish(); }

void Progress::step(const StepLine& line) {
  done_ = line.step;
  line_ = format_step(line);
  if (is_bar_) {
    draw();
  } else {
    std::fprintf(stderr, "%s\n", line_.c_str());
  }
}

void Progress::advance(std::int64_t done) {
  done_ = done;
  const auto now = std::chrono::steady_clock::now();
  if (is_bar_ && now - last_draw_ >= std::chrono::milliseconds(100)) draw();
}

void Progress::message(const std::string& text) {
  clear();
  std::fprintf(stderr, "%s\n", text.c_str());
  if (is_bar_) draw();
}

void Progress::finish() {
  if (!drawn_) return;
  draw();
  std::fputc('\n', stderr);
  drawn_ = false;
}

void Progress::draw() {
  last_draw_ = std::chrono::steady_clock::now();
  std::string text = format_bar(done_, total_, kBarColumns) + " " + line_;
  const auto columns = static_cast<std::size_t>(std::max(20, terminal_columns()) - 1);
  if (text.size() > columns) text.resize(columns);
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void Progress::clear() {
  if (!drawn_) return;
  std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

}  // namespace kumiko
