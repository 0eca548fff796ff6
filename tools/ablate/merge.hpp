// SPDX-License-Identifier: Apache-2.0
// Changes of a recipe that a sweep writes down.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "framework/core/config_tree.hpp"

namespace kumiko::tools {

// Lays `changes`, a mapping, over the mapping `base`. A key may be "a.b". A mapping joins the one that is
// there, except one with a member `name`, which names another thing (method, optimizer) and replaces the
// block whole. Null removes the key. Anything else replaces the value. Throws UsageError where a key leads
// through a value that is no mapping, and where the same value is given twice ("a.b" and b within a).
void merge_recipe(ConfigTree& base, const ConfigTree& changes);

// Puts `value` at "a.b".
void set_value(ConfigTree& base, std::string_view dotted_key, const ConfigPlace& place,
               const ConfigTree& value);

// The value at "a.b", null where there is none.
const ConfigTree* find_value(const ConfigTree& tree, std::string_view dotted_key);

std::string last_word_of(std::string_view dotted_key);  // "lr" of "optimizer.lr"

}  // namespace kumiko::tools
