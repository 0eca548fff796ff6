// SPDX-License-Identifier: Apache-2.0
#include "framework/train/strict_json.hpp"

#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

class Checker {
 public:
  explicit Checker(int max_depth) : max_depth_(max_depth) {}

  bool operator()(int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= max_depth_) throw std::runtime_error(concat("nested deeper than ", max_depth_, " levels"));
      if (event == Event::object_start) keys_.emplace_back();
    } else if (event == Event::object_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second)
        throw std::runtime_error(concat("the key \"", key, "\" is there twice"));
    }
    return true;
  }

 private:
  int max_depth_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

nlohmann::json parse_strict_json(std::string_view text, int max_depth) {
  Checker checker(max_depth);
  try {
    return nlohmann::json::parse(
        text.begin(), text.end(),
        [&checker](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
          return checker(depth, event, parsed);
        });
  } catch (const nlohmann::json::parse_error& error) {
    throw std::runtime_error(concat("not valid JSON near byte ", error.byte));
  }
}

}  // namespace kumiko
