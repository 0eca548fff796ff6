// SPDX-License-Identifier: Apache-2.0
// record_sample FOLDER: what tests/oracle reads with the programs that own the formats. FOLDER/tensorboard:
// steps 1 to 20 of a run, then 11 to 15 of one resumed at step 10. FOLDER/model.safetensors: one tensor of
// each dtype, all 0, 1, 2, ...
#include <cstdio>
#include <filesystem>

#include <ATen/ATen.h>

#include "framework/train/safetensors.hpp"
#include "framework/train/tensorboard.hpp"

namespace {

void write_events(const std::filesystem::path& folder) {
  {
    kumiko::TensorBoardWriter first(folder, -1);
    for (int step = 1; step <= 20; ++step) first.scalar("train/loss", step, 10.0 - 0.25 * step);
  }
  kumiko::TensorBoardWriter second(folder, 10);
  for (int step = 11; step <= 15; ++step) second.scalar("train/loss", step, 100.0 + step);
}

void write_tensors(const std::filesystem::path& file) {
  const std::vector<kumiko::SafetensorsEntry> entries{
      {"bytes", at::kByte, {3}},     {"model.f32", at::kFloat, {2, 3}}, {"model.bf16", at::kBFloat16, {5, 1}},
      {"model.f16", at::kHalf, {7}}, {"count", at::kLong, {}},          {"none", at::kFloat, {0, 4}}};
  kumiko::write_safetensors(file, entries, [&](std::size_t index) {
    const auto& entry = entries[index];
    return at::arange(c10::multiply_integers(entry.shape)).view(entry.shape).to(entry.dtype);
  });
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: record_sample FOLDER\n");
    return 2;
  }
  const std::filesystem::path folder = arguments[1];
  write_events(folder / "tensorboard");
  write_tensors(folder / "model.safetensors");
  return 0;
}
