// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/chart.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "framework/core/error.hpp"
#include "tools/ablate/format.hpp"

namespace kumiko::tools {
namespace {

constexpr double kWidth = 1100, kHeight = 360;
constexpr double kLeft = 62, kRight = 16, kTop = 14, kBottom = 46;

bool is_drawable(const ChartPoint& point, ChartScale scale) {
  const bool finite = std::isfinite(point.mean) && std::isfinite(point.low) && std::isfinite(point.high);
  return finite && (scale == ChartScale::linear || point.low > 0.0);
}

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

// Where values lie on the picture.
class Frame {
 public:
  explicit Frame(const Chart& chart) : scale_(chart.scale) {
    Range begin;
    for (const Series& series : chart.series) {
      bool first = true;
      for (const ChartPoint& point : series.points) {
        if (!is_drawable(point, scale_)) continue;
        x_.add(point.x);
        y_.add(to_axis(point.low));
        y_.add(to_axis(point.high));
        if (first) begin.add(to_axis(point.high));
        first = false;
      }
    }
    if (empty()) return;
    const double span = begin.high - y_.low;
    if (span > 0.0) y_.high = std::min(y_.high, begin.high + 0.25 * span);
    const double margin = std::max(0.04 * (y_.high - y_.low), 1e-9 * std::max(1.0, std::abs(y_.high)));
    y_.low -= margin;
    y_.high += margin;
    if (chart.x_label == "step") x_.low = std::min(x_.low, 0.0);
    if (x_.high <= x_.low) x_.high = x_.low + 1.0;
  }

  bool empty() const { return x_.empty(); }
  double px(double x) const { return kLeft + (x - x_.low) / (x_.high - x_.low) * (kWidth - kLeft - kRight); }
  double py(double y) const {
    return kHeight - kBottom - (to_axis(y) - y_.low) / (y_.high - y_.low) * (kHeight - kTop - kBottom);
  }
  std::vector<double> x_ticks() const {
    return linear_ticks(x_.low, x_.high, static_cast<int>(std::min(10.0, x_.high - x_.low)));
  }
  std::vector<double> y_ticks() const {
    return scale_ == ChartScale::log ? log_ticks(std::pow(10.0, y_.low), std::pow(10.0, y_.high))
                                     : linear_ticks(y_.low, y_.high, 6);
  }

 private:
  double to_axis(double y) const { return scale_ == ChartScale::log ? std::log10(y) : y; }

  ChartScale scale_;
  Range x_, y_;
};

// Far-off values are cut here, as browsers cannot place them.
std::string at(double value) { return fixed(std::clamp(value, -1e5, 1e5), 1); }

std::string tick_text(double value) {
  const double size = std::abs(value);
  if (size >= 1e6) return concat(value);
  if (value == std::round(value)) return fixed(value, 0);
  return fixed(value, size >= 1 ? 1 : size >= 0.1 ? 2 : 4);
}

std::string draw_axes(const Chart& chart, const Frame& frame) {
  const std::string left = at(kLeft), right = at(kWidth - kRight), bottom = at(kHeight - kBottom);
  std::string svg;
  for (const double y : frame.y_ticks()) {
    const std::string py = at(frame.py(y));
    svg +=
        concat("<line class=\"grid\" x1=\"", left, "\" x2=\"", right, "\" y1=\"", py, "\" y2=\"", py, "\"/>");
    svg += concat("<text x=\"", at(kLeft - 8), "\" y=\"", py,
                  "\" text-anchor=\"end\" dominant-baseline=\"middle\">", tick_text(y), "</text>");
  }
  for (const double x : frame.x_ticks()) {
    const std::string px = at(frame.px(x));
    svg += concat("<line class=\"axis\" x1=\"", px, "\" x2=\"", px, "\" y1=\"", bottom, "\" y2=\"",
                  at(kHeight - kBottom + 5), "\"/>");
    svg += concat("<text x=\"", px, "\" y=\"", at(kHeight - kBottom + 20), "\" text-anchor=\"middle\">",
                  tick_text(x), "</text>");
  }
  svg += concat("<line class=\"axis\" x1=\"", left, "\" x2=\"", right, "\" y1=\"", bottom, "\" y2=\"", bottom,
                "\"/>");
  svg += concat("<text class=\"label\" x=\"", at((kLeft + kWidth - kRight) / 2), "\" y=\"", at(kHeight - 6),
                "\" text-anchor=\"middle\">", escape_html(chart.x_label), "</text>");
  svg += concat("<text class=\"label\" transform=\"translate(14 ", at((kTop + kHeight - kBottom) / 2),
                ") rotate(-90)\" text-anchor=\"middle\">", escape_html(chart.y_label), "</text>");
  return svg;
}

std::string class_of(const Series& series) {
  return concat("s", series.color % kSeriesColors, series.color >= kSeriesColors ? " dashed" : "");
}

std::string draw_series(const Series& series, const Chart& chart, const Frame& frame) {
  std::string line, upper, lower, dots;
  for (const ChartPoint& point : series.points) {
    if (!is_drawable(point, chart.scale)) continue;
    const std::string px = at(frame.px(point.x));
    const std::string place = px + " " + at(frame.py(point.mean));
    line += (line.empty() ? "M" : "L") + place;
    upper += (upper.empty() ? "M" : "L") + px + " " + at(frame.py(point.high));
    lower = "L" + px + " " + at(frame.py(point.low)) + lower;
    if (chart.marks == ChartMarks::points) {
      dots += concat("<circle cx=\"", px, "\" cy=\"", at(frame.py(point.mean)), "\" r=\"3\"><title>",
                     escape_html(series.name), ", step ", fixed(point.x, 0), ": ", fixed(point.mean, 2),
                     "</title></circle>");
    }
  }
  if (line.empty()) return "";
  return concat("<g class=\"series ", class_of(series), "\"><path class=\"band\" d=\"", upper, lower,
                "Z\"/><path class=\"line\" d=\"", line, "\"><title>", escape_html(series.name),
                "</title></path>", dots, "</g>");
}

}  // namespace

std::vector<double> linear_ticks(double low, double high, int count) {
  const double rough = (high - low) / std::max(1, count);
  if (!(rough > 0.0) || !std::isfinite(rough)) return {low};
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10.0 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * 0.999) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> ticks;
  const auto first = static_cast<std::int64_t>(std::ceil(low / step - 1e-9));
  for (std::int64_t i = first; static_cast<double>(i) * step <= high + 1e-9 * step; ++i)
    ticks.push_back(static_cast<double>(i) * step);
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  const double decades = std::log10(high / low);
  if (decades < 1.0) return linear_ticks(low, high, 5);  // 1, 2, 5 would be few
  std::vector<double> ticks;
  for (double power = std::pow(10.0, std::floor(std::log10(low))); power <= high; power *= 10.0) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * power;
      if (tick >= low && tick <= high && (factor == 1.0 || decades < 4.0)) ticks.push_back(tick);
    }
  }
  return ticks;
}

std::string draw(const Chart& chart) {
  const Frame frame(chart);
  if (frame.empty()) return "";
  std::string svg = concat("<svg viewBox=\"0 0 ", kWidth, " ", kHeight, "\" role=\"img\"><title>",
                           escape_html(chart.title), "</title>");
  svg += concat("<clipPath id=\"plot\"><rect x=\"", kLeft, "\" y=\"", kTop - 4, "\" width=\"",
                kWidth - kLeft - kRight + 6, "\" height=\"", kHeight - kTop - kBottom + 4, "\"/></clipPath>");
  svg += draw_axes(chart, frame) + "<g clip-path=\"url(#plot)\">";
  for (const Series& series : chart.series) svg += draw_series(series, chart, frame);
  return svg + "</g></svg>";
}

std::string escape_html(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' ? ' ' : c;
    }
  }
  return out;
}

}  // namespace kumiko::tools
