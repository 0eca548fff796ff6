// SPDX-License-Identifier: Apache-2.0
// Line charts as SVG that reads its colours from the page's style sheet: class "sN" for series N.
#pragma once

#include <string>
#include <vector>

namespace kumiko::tools {

struct ChartPoint {
  double x = 0.0;
  double mean = 0.0;
  double low = 0.0;  // of the band around the mean
  double high = 0.0;
};

struct Series {
  std::string name;
  std::size_t color = 0;           // N of its class
  std::vector<ChartPoint> points;  // by x; what is not finite is left out
};

enum class ChartScale { linear, log };   // of y
enum class ChartMarks { line, points };  // points: a dot at each value besides

struct Chart {
  std::string title;  // for readers who cannot see it
  std::string x_label, y_label;
  ChartScale scale = ChartScale::linear;
  ChartMarks marks = ChartMarks::line;
  std::vector<Series> series;
};

inline constexpr std::size_t kSeriesColors = 8;  // then they come again, dashed

// "" when no series has a point. Values far above where every series starts (a run that diverged) are cut off
// at the top.
std::string draw(const Chart& chart);

// Values that axis labels stand at: 1, 2 or 5 times a power of ten, about `count` of them, within [low,
// high].
std::vector<double> linear_ticks(double low, double high, int count);
std::vector<double> log_ticks(double low, double high);

// <, >, &, " and ' as entities; control characters that HTML has not as blanks.
std::string escape_html(const std::string& text);

}  // namespace kumiko::tools
