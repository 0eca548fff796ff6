// SPDX-License-Identifier: Apache-2.0
// YAML as a tree that remembers where each key and value stands. It is what ConfigNode reads; everything else uses config.hpp.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kumiko {

inline constexpr std::size_t kConfigMaxBytes = std::size_t{1} << 20;
inline constexpr std::size_t kConfigMaxDepth = 32;

// Where something was written: "recipe.yaml:7:3", or "override 'a.b=v'" (line 0).
struct ConfigPlace {
  std::shared_ptr<const std::string> origin;
  int line = 0;      // from 1
  int column = 0;    // from 1, in bytes

  std::string text() const;
};

struct ConfigTree {
  enum class Kind { null, scalar, sequence, mapping };
  struct Member;

  Kind kind = Kind::null;
  bool quoted = false;                // a scalar in quotes is always text
  ConfigPlace place;
  std::string scalar;
  std::vector<ConfigTree> items;      // of a sequence
  std::vector<Member> members;        // of a mapping, in the order written

  const Member* find(std::string_view key) const;
  Member* find(std::string_view key);
  std::string describe() const;       // "'12'", "the text \"12\"", "a sequence", "a mapping", "null"
};

struct ConfigTree::Member {
  std::string key;
  ConfigPlace place;
  ConfigTree value;
};

// Parses one YAML document whose root is a mapping. Throws UsageError "ORIGIN:LINE:COLUMN: ..." for what config.hpp refuses.
ConfigTree parse_config_tree(std::string_view text, const std::string& origin);

// Applies "a.b=value" to the tree: replaces the value, or makes it and the mappings above it; "a.b=null" removes the key.
// Throws UsageError "override 'a.b=value': ...".
void apply_override(ConfigTree& root, const std::string& override_text);

std::vector<std::string> split_key(std::string_view dotted_key);   // "a", "b" of "a.b"

// The tree as one line of YAML that parses to the same: "{rank: 64, kinds: [a, b]}".
std::string to_flow_yaml(const ConfigTree& tree);

// `text` as a YAML scalar on one line; in quotes where it would otherwise be read as something else.
std::string quote_scalar(std::string_view text, bool may_be_number);

}  // namespace kumiko
