// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace kumiko::data {

enum class JsonFieldStatus { found, malformed, no_object, missing, not_text };

struct JsonField {
  JsonFieldStatus status = JsonFieldStatus::missing;
  std::string value;    // when found
  std::string problem;  // when malformed: what the parser said
};

// The text under `key` at the top of a JSON object (of doubled keys the first counts). Builds no tree, so
// memory stays near the size of `line`; at most 512 levels deep.
JsonField read_json_field(std::string_view line, std::string_view key);

}  // namespace kumiko::data
