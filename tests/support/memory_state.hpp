// SPDX-License-Identifier: Apache-2.0
// Named state kept in memory: what a test saves, damages and loads.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/state.hpp"

namespace kumiko::test {

class MemoryState final : public StateWriter, public StateReader {
 public:
  void tensor(std::string_view name, const at::Tensor& value) override {
    put(tensors, name, value.detach().to(at::kCPU, value.scalar_type(), false, true));
  }
  void integer(std::string_view name, std::int64_t value) override { put(integers, name, value); }
  void real(std::string_view name, double value) override { put(reals, name, value); }
  void text(std::string_view name, std::string_view value) override { put(texts, name, std::string(value)); }

  bool has(std::string_view name) const override {
    const std::string key(name);
    return tensors.contains(key) || integers.contains(key) || reals.contains(key) || texts.contains(key);
  }
  at::Tensor tensor(std::string_view name) const override { return get(tensors, name, "tensor"); }
  std::int64_t integer(std::string_view name) const override { return get(integers, name, "integer"); }
  double real(std::string_view name) const override { return get(reals, name, "real"); }
  std::string text(std::string_view name) const override { return get(texts, name, "text"); }

  std::map<std::string, at::Tensor> tensors;
  std::map<std::string, std::int64_t> integers;
  std::map<std::string, double> reals;
  std::map<std::string, std::string> texts;

 private:
  template <class T>
  void put(std::map<std::string, T>& to, std::string_view name, T value) {
    KUMIKO_EXPECTS(!has(name), CheckpointError, "'", name, "' is written twice");
    to.emplace(name, std::move(value));
  }

  template <class T>
  static const T& get(const std::map<std::string, T>& from, std::string_view name, const char* kind) {
    const auto found = from.find(std::string(name));
    KUMIKO_EXPECTS(found != from.end(), CheckpointError, "no ", kind, " '", name, "' in the checkpoint");
    return found->second;
  }
};

}  // namespace kumiko::test
