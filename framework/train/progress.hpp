// SPDX-License-Identifier: Apache-2.0
// What a person sees of a run while it runs. Rank 0 only.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace kumiko {

// One logged step. What is not known is left empty and not printed.
struct StepLine {
  std::int64_t step = 0;
  std::int64_t total = 0;  // steps of the run
  double loss = 0.0;       // nats a token
  std::optional<double> ppl;
  std::optional<double> lr;
  std::optional<double> grad_norm;
  std::optional<double> tokens_per_s;
  std::optional<double> mfu;                 // 0 to 1
  std::optional<std::int64_t> memory_bytes;  // now
  std::optional<std::int64_t> peak_bytes;
  std::optional<std::int64_t> merges;  // done so far
  std::optional<double> eta_seconds;
};

// "step  120/1000 | loss 4.2103 | ppl 67.4 | lr 1.0e-02 | grad 0.83 | 12.3k tok/s | mfu 41 % | mem 1.2/1.4
// GiB | merges 3 | eta 3m 20s". Memory and peak share a unit; non-finite numbers are printed as "nan" and
// "inf".
std::string format_step(const StepLine& line);

// "[#########.....] 45 %" of `width` columns in all.
std::string format_bar(std::int64_t done, std::int64_t total, int width);

// Prints to standard error: on a terminal one line that is drawn again, elsewhere one plain line for each
// logged step.
class Progress {
 public:
  enum class Style { automatic, bar, lines };
  explicit Progress(std::int64_t total, Style style = Style::automatic);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  void step(const StepLine& line);  // a logged step
  void advance(std::int64_t done);  // any step; draws at most ten times a second, nothing without a terminal
  // A message for which the bar makes way.
  void message(const std::string& text);
  void finish();  // ends the bar's line

 private:
  void draw();
  void clear();

  std::int64_t total_;
  bool is_bar_;
  bool drawn_ = false;
  std::int64_t done_ = 0;
  std::string line_;
  std::chrono::steady_clock::time_point last_draw_{};
};

}  // namespace kumiko
