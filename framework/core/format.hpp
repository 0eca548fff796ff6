// SPDX-License-Identifier: Apache-2.0
// Numbers as people read and write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kumiko {

// Binary units, three digits at most: "512 B", "1.5 GiB", "24 GiB".
std::string format_bytes(std::int64_t bytes);

// Three significant digits with K, M, B (10^9) or T: "999", "58.1M", "1.34B".
std::string format_count(std::int64_t count);

// The two largest units: "0.4s", "42s", "3m 05s", "1h 02m", "2d 03h". "?" for a negative or non-finite time.
std::string format_duration(double seconds);

// The shortest decimal text that reads back as the same double, always with a point: "0.01", "2.0", "1.0e-06".
// `value` is finite.
std::string format_real(double value);

// An optional sign and decimal digits, with single underscores between digits: "123", "1_000". Neither octal nor hex:
// a leading zero is refused. Nothing for any other text or a value outside 64 bits.
std::optional<std::int64_t> parse_integer(std::string_view text);

// An integer of any size, or a decimal with a point or an exponent: "1_000", ".5", "1e-3". Nothing for any other text
// (inf and nan too) and for values that a double can only hold as infinity or as zero.
std::optional<double> parse_real(std::string_view text);

// "24GiB", "64 MiB", "1.5G", "10MB", "1_000". K, M, G, T and KiB ... TiB are powers of 1024, KB ... TB powers of 1000, in
// any case. Throws UsageError for other text and for sizes that do not fit 64 bits.
std::int64_t parse_bytes(std::string_view text);

}  // namespace kumiko
