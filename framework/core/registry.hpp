// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "framework/core/error.hpp"

namespace kumiko {

// Maps a recipe's name to a factory. Filled by called functions, never by static constructors.
template <class T, class... Args>
class Registry {
 public:
  using Factory = std::function<std::unique_ptr<T>(Args...)>;

  explicit Registry(std::string kind) : kind_(std::move(kind)) {}

  void add(const std::string& name, Factory factory) {
    KUMIKO_EXPECTS(factories_.emplace(name, std::move(factory)).second, UsageError, kind_, " '", name, "' is registered twice");
  }

  bool has(const std::string& name) const { return factories_.contains(name); }

  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, factory] : factories_) result.push_back(name);
    return result;
  }

  // Throws UsageError that lists the known names.
  std::unique_ptr<T> make(const std::string& name, Args... args) const {
    const auto found = factories_.find(name);
    if (found == factories_.end()) {
      std::string known;
      for (const auto& known_name : names()) known += (known.empty() ? "" : ", ") + known_name;
      throw UsageError(concat("unknown ", kind_, " '", name, "'; known: ", known));
    }
    return found->second(std::forward<Args>(args)...);
  }

 private:
  std::string kind_;
  std::map<std::string, Factory> factories_;
};

}  // namespace kumiko
