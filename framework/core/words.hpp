// SPDX-License-Identifier: Apache-2.0
// "Did you mean": the known word nearest to one that is not known.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace kumiko {

// The fewest insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`, no part being edited
// twice (restricted Damerau-Levenshtein distance).
std::size_t edit_distance(std::string_view a, std::string_view b);

// The first of the nearest `known` words within distance 2 (1 for words of two or three letters, 0 for one).
std::optional<std::string> nearest_word(std::string_view word, std::span<const std::string> known);

// "a, b, c".
std::string join_words(std::span<const std::string> words);

}  // namespace kumiko
