// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace kumiko::data {

// Offset of the first byte that is not part of well-formed UTF-8 (Unicode 15, table 3-7: no surrogates, no
// overlong forms, nothing above U+10FFFF); nothing when all is well.
std::optional<std::size_t> find_invalid_utf8(std::string_view text) noexcept;

}  // namespace kumiko::data
