// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/merge.hpp"

#include <map>

#include "framework/core/error.hpp"

namespace kumiko::tools {
namespace {

using Kind = ConfigTree::Kind;

bool names_a_thing(const ConfigTree& value) {
  return value.kind == Kind::mapping && (value.find("name") != nullptr || value.find("kind") != nullptr);
}

// The mapping at the path of all keys but the last, made where it is absent.
ConfigTree& parent_of(ConfigTree& base, const std::vector<std::string>& keys, const ConfigPlace& place) {
  ConfigTree* parent = &base;
  std::string path;
  for (std::size_t i = 0; i + 1 < keys.size(); ++i) {
    path += (i == 0 ? "" : ".") + keys[i];
    ConfigTree::Member* member = parent->find(keys[i]);
    if (member == nullptr)
      member = &parent->members.emplace_back(ConfigTree::Member{keys[i], place, {.place = place}});
    if (member->value.kind == Kind::null) member->value = {.kind = Kind::mapping, .place = place};
    KUMIKO_EXPECTS(member->value.kind == Kind::mapping, UsageError, place.text(), ": ", path, " is ",
                   member->value.describe(), ", not a mapping");
    parent = &member->value;
  }
  return *parent;
}

void merge_member(ConfigTree& base, const ConfigTree::Member& change) {
  const std::vector<std::string> keys = split_key(change.key);
  for (const auto& key : keys) {
    KUMIKO_EXPECTS(!key.empty(), UsageError, change.place.text(), ": '", change.key,
                   "' is not words joined by points");
  }
  ConfigTree& parent = parent_of(base, keys, change.place);
  ConfigTree::Member* member = parent.find(keys.back());
  const ConfigTree& value = change.value;
  if (value.kind == Kind::null && member != nullptr) {
    parent.members.erase(parent.members.begin() + (member - parent.members.data()));
    return;
  }
  if (member == nullptr)
    member =
        &parent.members.emplace_back(ConfigTree::Member{keys.back(), change.place, {.place = value.place}});
  if (value.kind == Kind::mapping) {
    if (member->value.kind != Kind::mapping || names_a_thing(value))
      member->value = {.kind = Kind::mapping, .place = value.place};
    member->place = change.place;
    for (const ConfigTree::Member& inner : value.members) merge_member(member->value, inner);
    return;
  }
  // A null of an unknown key stays in the tree, so that a mistyped removal is refused as an unknown key.
  *member = {keys.back(), change.place, value};
}

void refuse_twice(const ConfigTree& changes, const std::string& prefix,
                  std::map<std::string, ConfigPlace>& seen) {
  for (const ConfigTree::Member& member : changes.members) {
    const std::string path = prefix + member.key;
    if (member.value.kind == Kind::mapping) {
      refuse_twice(member.value, path + ".", seen);
      continue;
    }
    const auto [before, fresh] = seen.emplace(path, member.place);
    KUMIKO_EXPECTS(fresh, UsageError, member.place.text(), ": ", path, " is given twice, before at ",
                   before->second.text());
  }
}

}  // namespace

void merge_recipe(ConfigTree& base, const ConfigTree& changes) {
  std::map<std::string, ConfigPlace> seen;
  refuse_twice(changes, "", seen);
  for (const ConfigTree::Member& change : changes.members) merge_member(base, change);
}

std::string last_word_of(std::string_view dotted_key) {
  return std::string(dotted_key.substr(dotted_key.rfind('.') + 1));
}

void set_value(ConfigTree& base, std::string_view dotted_key, const ConfigPlace& place,
               const ConfigTree& value) {
  merge_member(base, {std::string(dotted_key), place, value});
}

const ConfigTree* find_value(const ConfigTree& tree, std::string_view dotted_key) {
  const ConfigTree* at = &tree;
  for (const auto& key : split_key(dotted_key)) {
    const ConfigTree::Member* member = at->find(key);
    if (member == nullptr) return nullptr;
    at = &member->value;
  }
  return at;
}

}  // namespace kumiko::tools
