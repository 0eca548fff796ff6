// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "data/h5.hpp"
#include "framework/core/state.hpp"
#include "framework/train/checkpoint_manifest.hpp"

namespace kumiko {

// Writes state into an existing empty folder: HDF5 files of at most `file_bytes` of tensors each (a larger
// tensor has a file of its own), then manifest.json. Holds one file's worth of tensors at a time. A dataset
// is named like its tensor with ':' for '/'. Throws FileError or data::H5Error when the folder cannot take
// it, CheckpointError for a name given twice.
class CheckpointWriter final : public StateWriter {
 public:
  CheckpointWriter(std::filesystem::path folder, std::int64_t file_bytes);

  void tensor(std::string_view name, const at::Tensor& value) override;
  void integer(std::string_view name, std::int64_t value) override;
  void real(std::string_view name, double value) override;
  void text(std::string_view name, std::string_view value) override;

  // Writes what is left and the manifest; called once, last.
  const Manifest& finish(std::int64_t step, const CheckpointMeta& meta);

 private:
  void claim(std::string_view name) const;
  void end_file();

  std::filesystem::path folder_;
  std::int64_t file_bytes_;
  std::int64_t image_bytes_ = 0;  // tensors in image_
  bool image_used_ = false;
  data::H5ImageWriter image_;
  Manifest manifest_;
};

// Adds up what a checkpoint of the same state would need, without copying a tensor.
class StateMeter final : public StateWriter {
 public:
  void tensor(std::string_view name, const at::Tensor& value) override;
  void integer(std::string_view name, std::int64_t value) override;
  void real(std::string_view name, double value) override;
  void text(std::string_view name, std::string_view value) override;
  std::int64_t bytes() const noexcept { return bytes_; }  // an upper estimate with headers and manifest

 private:
  std::int64_t bytes_ = 0;
};

}  // namespace kumiko
