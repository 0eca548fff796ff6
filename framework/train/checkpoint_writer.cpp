// SPDX-License-Identifier: Apache-2.0
#include "framework/train/checkpoint_writer.hpp"

#include <algorithm>
#include <array>
#include <ctime>

#include <ATen/ATen.h>

#include "framework/core/files.hpp"
#include "framework/core/sha256.hpp"
#include "framework/train/checkpoint_format.hpp"

namespace kumiko {
namespace {

constexpr std::int64_t kEntryBytes = 1024;  // a dataset's header in HDF5 plus its lines in the manifest

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

}  // namespace

CheckpointWriter::CheckpointWriter(std::filesystem::path folder, std::int64_t file_bytes)
    : folder_(std::move(folder)), file_bytes_(file_bytes) {}

void CheckpointWriter::claim(std::string_view name) const {
  check_state_name(name);
  KUMIKO_EXPECTS(!manifest_.has(name), CheckpointError, "'", name, "' is saved twice");
}

void CheckpointWriter::tensor(std::string_view name, const at::Tensor& value) {
  claim(name);
  KUMIKO_EXPECTS(value.defined(), CheckpointError, "tensor '", name, "' to be saved is undefined");
  const auto dtype = h5_dtype(value.scalar_type());
  const auto bytes = static_cast<std::int64_t>(value.nbytes());
  if (image_used_ && image_bytes_ + bytes > file_bytes_) end_file();
  const at::Tensor host = value.detach().cpu().contiguous();
  const std::span<const std::byte> content(static_cast<const std::byte*>(host.const_data_ptr()),
                                           static_cast<std::size_t>(bytes));
  image_.dataset(dataset_name(name), host.const_data_ptr(), dtype, host.sizes());
  image_used_ = true;
  image_bytes_ += bytes;
  manifest_.tensors.emplace(name, ManifestTensor{.dtype = host.scalar_type(),
                                                 .shape = host.sizes().vec(),
                                                 .bytes = bytes,
                                                 .sha256 = Sha256::hex_of(content),
                                                 .file = manifest_.files.size()});
}

void CheckpointWriter::integer(std::string_view name, std::int64_t value) {
  claim(name);
  manifest_.integers.emplace(name, value);
}

void CheckpointWriter::real(std::string_view name, double value) {
  claim(name);
  manifest_.reals.emplace(name, value);
}

void CheckpointWriter::text(std::string_view name, std::string_view value) {
  claim(name);
  manifest_.texts.emplace(name, value);
}

void CheckpointWriter::end_file() {
  const std::vector<std::byte> bytes = image_.finish();
  image_ = data::H5ImageWriter();
  image_used_ = false;
  image_bytes_ = 0;
  const std::string name = state_file_name(manifest_.files.size());
  write_file_durably(folder_ / name, bytes);
  manifest_.files.push_back({name, static_cast<std::int64_t>(bytes.size()), Sha256::hex_of(bytes)});
}

const Manifest& CheckpointWriter::finish(std::int64_t step, const CheckpointMeta& meta) {
  if (image_used_) end_file();
  manifest_.step = step;
  manifest_.meta = meta;
  manifest_.created = utc_now();
  const std::string text = encode_manifest(manifest_);
  KUMIKO_EXPECTS(text.size() <= kMaxManifestBytes, CheckpointError, "the checkpoint's manifest would have ",
                 text.size(), " bytes; texts of the state are too long");
  write_file_durably(folder_ / kManifestName, text);
  return manifest_;
}

void StateMeter::tensor(std::string_view name, const at::Tensor& value) {
  bytes_ += static_cast<std::int64_t>(value.nbytes() + name.size()) + kEntryBytes;
}
void StateMeter::integer(std::string_view name, std::int64_t) {
  bytes_ += static_cast<std::int64_t>(name.size()) + 32;
}
void StateMeter::real(std::string_view name, double) {
  bytes_ += static_cast<std::int64_t>(name.size()) + 32;
}
void StateMeter::text(std::string_view name, std::string_view value) {
  bytes_ += static_cast<std::int64_t>(name.size() + 2 * value.size()) + 32;
}

}  // namespace kumiko
