// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "data/h5.hpp"
#include "framework/core/state.hpp"
#include "framework/train/checkpoint_manifest.hpp"

namespace kumiko {

// A checkpoint all of whose digests were checked when it was opened. Holds one tensor at a time; its digest
// is checked again when it is given out, because the file may have changed since.
class CheckpointReader final : public StateReader {
 public:
  // Throws CheckpointError that names the first file or tensor that is missing, cut, changed or surplus;
  // NewerCheckpointError for a later format.
  explicit CheckpointReader(std::filesystem::path folder);

  bool has(std::string_view name) const override;
  at::Tensor tensor(std::string_view name) const override;
  std::int64_t integer(std::string_view name) const override;
  double real(std::string_view name) const override;
  std::string text(std::string_view name) const override;

  const Manifest& manifest() const noexcept { return manifest_; }
  const std::filesystem::path& folder() const noexcept { return folder_; }

 private:
  void verify();
  void open_file(std::size_t index) const;  // opens it after its digest was checked
  at::Tensor read(std::string_view name, const ManifestTensor& tensor) const;
  [[noreturn]] void fail_missing(std::string_view name, const char* kind) const;

  std::filesystem::path folder_;
  Manifest manifest_;
  mutable std::optional<data::H5File> open_;
  mutable std::size_t open_index_ = 0;
};

}  // namespace kumiko
