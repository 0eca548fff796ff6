// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace kumiko {

// Parses JSON (RFC 8259) from a file that is not trusted: refuses a key given twice, nesting beyond
// `max_depth` and anything after the value. Throws std::runtime_error that says what is wrong and at which
// byte; callers name the file.
nlohmann::json parse_strict_json(std::string_view text, int max_depth);

}  // namespace kumiko
