// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "framework/core/state.hpp"
#include "framework/train/checkpoint.hpp"
#include "tests/support/files.hpp"

namespace kumiko::test {

inline const CheckpointMeta kMeta{
    .world_size = 2, .recipe = "train:\n  steps: 40\n", .code_version = "0.1.0 test"};

// Every dtype, an empty and a 0-d tensor, a view with strides; the values depend on `step`.
inline std::map<std::string, at::Tensor> sample_tensors(std::int64_t step) {
  const at::Tensor base = at::arange(600, at::kFloat).add(static_cast<double>(step)).sin();
  return {{"model/embedding", base.view({30, 20})},
          {"model/view", base.view({30, 20}).t()},
          {"model/bf16", base.to(at::kBFloat16)},
          {"model/f16", base.to(at::kHalf).view({2, 300})},
          {"model/w/codes", base.mul(100).add(128).to(at::kByte)},
          {"optimizer/i8", base.mul(100).to(at::kChar)},
          {"optimizer/i32", base.mul(1e6).to(at::kInt)},
          {"optimizer/i64", base.mul(1e12).to(at::kLong)},
          {"optimizer/f64", base.to(at::kDouble)},
          {"optimizer/flags", base.gt(0)},
          {"optimizer/scalar", at::scalar_tensor(static_cast<double>(step), at::kFloat)},
          {"optimizer/none", at::empty({0, 3})}};
}

inline void write_sample(std::int64_t step, StateWriter& out) {
  for (const auto& [name, tensor] : sample_tensors(step)) out.tensor(name, tensor);
  out.integer("trainer/step", step);
  out.integer("trainer/most_negative", std::numeric_limits<std::int64_t>::min());
  out.real("trainer/best", 0.1 * static_cast<double>(step));
  out.real("trainer/nan", std::numeric_limits<double>::quiet_NaN());
  out.text("data/order", "epoch 1, \"quoted\"\n\xc3\xa9");
  out.text("data/bytes", std::string("\xff\x00\x80", 3));
}

inline SaveResult save_sample(CheckpointStore& store, std::int64_t step) {
  return store.save(step, kMeta, [step](StateWriter& out) { write_sample(step, out); });
}

// Empty when `in` holds exactly the sample of `step`, else what differs.
inline std::string differs_from_sample(const StateReader& in, std::int64_t step) {
  for (const auto& [name, expected] : sample_tensors(step)) {
    const at::Tensor stored = in.tensor(name);
    if (stored.scalar_type() != expected.scalar_type() || !stored.equal(expected)) return name;
  }
  if (in.integer("trainer/step") != step) return "trainer/step";
  if (in.integer("trainer/most_negative") != std::numeric_limits<std::int64_t>::min())
    return "trainer/most_negative";
  if (in.real("trainer/best") != 0.1 * static_cast<double>(step)) return "trainer/best";
  if (in.real("trainer/nan") == in.real("trainer/nan")) return "trainer/nan";
  if (in.text("data/order") != "epoch 1, \"quoted\"\n\xc3\xa9") return "data/order";
  if (in.text("data/bytes") != std::string("\xff\x00\x80", 3)) return "data/bytes";
  return "";
}

inline std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& item : std::filesystem::directory_iterator(folder))
    names.push_back(item.path().filename().string());
  return names;
}

}  // namespace kumiko::test
