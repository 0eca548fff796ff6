// SPDX-License-Identifier: Apache-2.0
#include "framework/core/format.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

constexpr double kBytesEnd = 9223372036854775808.0;  // 2^63

std::string fixed(double value, int decimals) {
  std::array<char, 64> buffer{};
  const int length = std::snprintf(buffer.data(), buffer.size(), "%.*f", decimals, value);
  return {buffer.data(), static_cast<std::size_t>(length)};
}

std::string two_units(std::int64_t large, const char* large_unit, std::int64_t small,
                      const char* small_unit) {
  return concat(large, large_unit, small < 10 ? " 0" : " ", small, small_unit);
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Takes digits with single underscores between them off the front of `text`.
std::string take_digits(std::string_view& text) {
  std::string digits;
  while (!text.empty()) {
    const bool underscore = text[0] == '_' && !digits.empty() && text.size() > 1 && is_digit(text[1]);
    if (!is_digit(text[0]) && !underscore) break;
    if (!underscore) digits += text[0];
    text.remove_prefix(1);
  }
  return digits;
}

// Takes a sign; the result keeps only '-', which is what std::from_chars reads.
std::string take_sign(std::string_view& text) {
  if (text.empty() || (text[0] != '-' && text[0] != '+')) return "";
  const std::string sign = text[0] == '-' ? "-" : "";
  text.remove_prefix(1);
  return sign;
}

bool has_leading_zero(const std::string& digits) { return digits.size() > 1 && digits[0] == '0'; }

// The part of a real after its integer digits, or nothing where it is malformed.
std::optional<std::string> take_fraction_and_exponent(std::string_view& text, bool has_integer_digits) {
  std::string result;
  if (!text.empty() && text[0] == '.') {
    text.remove_prefix(1);
    const std::string fraction = take_digits(text);
    if (fraction.empty() && !has_integer_digits) return std::nullopt;
    result = "." + (fraction.empty() ? "0" : fraction);
  } else if (!has_integer_digits) {
    return std::nullopt;
  }
  if (!text.empty() && (text[0] == 'e' || text[0] == 'E')) {
    text.remove_prefix(1);
    const std::string sign = take_sign(text);
    const std::string exponent = take_digits(text);
    if (exponent.empty()) return std::nullopt;
    result += "e" + sign + exponent;
  }
  return result;
}

double unit_factor(std::string_view unit, bool& known) {
  std::string lower;
  for (const char c : unit) lower += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  known = true;
  if (lower.empty() || lower == "b") return 1.0;
  const std::size_t power = std::string_view("kmgt").find(lower[0]);
  const std::string suffix = lower.substr(1);
  known = power != std::string_view::npos && (suffix.empty() || suffix == "b" || suffix == "ib");
  return known ? std::pow(suffix == "b" ? 1000.0 : 1024.0, static_cast<double>(power + 1)) : 0.0;
}

}  // namespace

std::string format_bytes(std::int64_t bytes) {
  if (bytes < 0) return "-" + (bytes == INT64_MIN ? "8 EiB" : format_bytes(-bytes));
  if (bytes < 1024) return concat(bytes, " B");
  double value = static_cast<double>(bytes);
  constexpr std::array<const char*, 6> kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  for (value /= 1024; unit + 1 < kUnits.size() && std::round(value) >= 1024; value /= 1024) ++unit;
  const bool whole = value == std::floor(value) || value >= 99.95;
  return fixed(value, whole ? 0 : 1) + " " + kUnits[unit];
}

std::string format_count(std::int64_t count) {
  if (count < 0) return "-" + (count == INT64_MIN ? "9223372T" : format_count(-count));
  if (count < 1000) return concat(count);
  double value = static_cast<double>(count);
  constexpr std::array<const char*, 4> kUnits = {"K", "M", "B", "T"};
  std::size_t unit = 0;
  for (value /= 1000; unit + 1 < kUnits.size() && value >= 999.5; value /= 1000) ++unit;
  std::string text = fixed(value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text + kUnits[unit];
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e15) return "?";
  if (seconds < 9.95) return fixed(seconds, 1) + "s";
  const auto total = static_cast<std::int64_t>(std::llround(seconds));
  if (total < 60) return concat(total, "s");
  if (total < 3600) return two_units(total / 60, "m", total % 60, "s");
  if (total < 86400) return two_units(total / 3600, "h", total % 3600 / 60, "m");
  return two_units(total / 86400, "d", total % 86400 / 3600, "h");
}

std::string format_real(double value) {
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  std::string text(buffer.data(), end);
  if (text.find('.') == std::string::npos) text.insert(std::min(text.find('e'), text.size()), ".0");
  return text;
}

std::optional<std::int64_t> parse_integer(std::string_view text) {
  const std::string sign = take_sign(text);
  const std::string digits = take_digits(text);
  if (digits.empty() || !text.empty() || has_leading_zero(digits)) return std::nullopt;
  const std::string number = sign + digits;
  std::int64_t value = 0;
  const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
  if (result.ec != std::errc()) return std::nullopt;
  return value;
}

std::optional<double> parse_real(std::string_view text) {
  const std::string sign = take_sign(text);
  const std::string digits = take_digits(text);
  if (has_leading_zero(digits)) return std::nullopt;
  const std::optional<std::string> rest = take_fraction_and_exponent(text, !digits.empty());
  if (!rest || !text.empty()) return std::nullopt;
  const std::string number = sign + (digits.empty() ? "0" : digits) + *rest;
  double value = 0;
  const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
  if (result.ec != std::errc()) return std::nullopt;
  return value;
}

std::int64_t parse_bytes(std::string_view text) {
  const auto trimmed_end = text.find_last_of("0123456789.");
  const std::string_view number =
      trimmed_end == std::string_view::npos ? "" : text.substr(0, trimmed_end + 1);
  std::string_view unit = text.substr(number.size());
  if (!unit.empty() && unit[0] == ' ') unit.remove_prefix(1);
  bool known = false;
  const double factor = unit_factor(unit, known);
  const std::optional<double> value = parse_real(number);
  KUMIKO_EXPECTS(value && known && *value >= 0, UsageError, "found '", text,
                 "', needed a size such as 24GiB, 512MiB or 1_000_000");
  const std::optional<std::int64_t> exact = parse_integer(number);
  KUMIKO_EXPECTS(*value * factor < kBytesEnd, UsageError, "found '", text, "', needed a size below 8 EiB");
  return exact ? *exact * static_cast<std::int64_t>(factor)
               : static_cast<std::int64_t>(std::llround(*value * factor));
}

}  // namespace kumiko
