// SPDX-License-Identifier: Apache-2.0
#include "framework/train/checkpoint_reader.hpp"

#include <algorithm>
#include <fstream>
#include <system_error>

#include <ATen/ATen.h>

#include "framework/core/files.hpp"
#include "framework/core/sha256.hpp"
#include "framework/train/checkpoint_format.hpp"

namespace kumiko {
namespace {

Manifest read_manifest(const std::filesystem::path& folder) {
  const auto file = folder / kManifestName;
  std::error_code error;
  KUMIKO_EXPECTS(std::filesystem::is_regular_file(file, error), CheckpointError, folder.string(), " has no ",
                 kManifestName, ": it is no checkpoint or was never completed");
  try {
    const auto bytes = read_file(file, kMaxManifestBytes);
    return decode_manifest({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file);
  } catch (const FileError& failure) {
    throw CheckpointError(failure.what());
  }
}

std::string digest_of_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> buffer(std::size_t{1} << 20);
  Sha256 sha;
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    sha.update(std::string_view(buffer.data(), static_cast<std::size_t>(in.gcount())));
  }
  KUMIKO_EXPECTS(in.eof(), CheckpointError, "cannot read ", path.string());
  return sha.hex();
}

}  // namespace

CheckpointReader::CheckpointReader(std::filesystem::path folder)
    : folder_(std::move(folder)), manifest_(read_manifest(folder_)) {
  verify();
}

void CheckpointReader::verify() {
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(folder_, error)) {
    const std::string name = item.path().filename().string();
    const bool listed = std::any_of(manifest_.files.begin(), manifest_.files.end(),
                                    [&](const ManifestFile& file) { return file.name == name; });
    KUMIKO_EXPECTS(listed || !name.starts_with("state-"), CheckpointError, item.path().string(),
                   " is not in the manifest");
  }
  for (std::size_t index = 0; index < manifest_.files.size(); ++index) {
    open_file(index);
    std::size_t expected = 0;
    for (const auto& [name, tensor] : manifest_.tensors) {
      if (tensor.file != index) continue;
      read(name, tensor);
      ++expected;
    }
    KUMIKO_EXPECTS(open_->dataset_names().size() == expected, CheckpointError,
                   (folder_ / manifest_.files[index].name).string(),
                   " holds tensors that are not in the manifest");
  }
}

void CheckpointReader::open_file(std::size_t index) const {
  if (open_ && open_index_ == index) return;
  open_.reset();
  const ManifestFile& file = manifest_.files[index];
  const auto path = folder_ / file.name;
  std::error_code error;
  KUMIKO_EXPECTS(std::filesystem::is_regular_file(std::filesystem::symlink_status(path, error)),
                 CheckpointError, path.string(), " is missing");
  const auto size = static_cast<std::int64_t>(std::filesystem::file_size(path, error));
  KUMIKO_EXPECTS(!error && size == file.bytes, CheckpointError, path.string(), " is damaged: it has ", size,
                 " bytes instead of ", file.bytes);
  try {
    const std::string digest = digest_of_file(path);
    KUMIKO_EXPECTS(digest == file.sha256, CheckpointError, path.string(), " is damaged: its SHA-256 is ",
                   digest, " instead of ", file.sha256);
    open_.emplace(data::H5File::open(path));
    open_index_ = index;
  } catch (const data::H5Error& failure) {
    throw CheckpointError(failure.what());
  }
}

at::Tensor CheckpointReader::read(std::string_view name, const ManifestTensor& tensor) const {
  const auto path = (folder_ / manifest_.files[tensor.file].name).string();
  const std::string dataset = dataset_name(name);
  KUMIKO_EXPECTS(open_->has(dataset), CheckpointError, path, " has no tensor '", name, "'");
  const auto& info = open_->info(dataset);
  KUMIKO_EXPECTS(info.dtype == h5_dtype(tensor.dtype) && info.dims == tensor.shape, CheckpointError, path,
                 ": tensor '", name, "' has another dtype or shape than the manifest says");
  at::Tensor value = at::empty(tensor.shape, tensor.dtype);
  const std::span<std::byte> bytes(static_cast<std::byte*>(value.mutable_data_ptr()), value.nbytes());
  try {
    open_->read(dataset, bytes.data(), bytes.size());
  } catch (const data::H5Error& failure) {
    throw CheckpointError(failure.what());
  }
  KUMIKO_EXPECTS(Sha256::hex_of(bytes) == tensor.sha256, CheckpointError, path, ": tensor '", name,
                 "' does not match its SHA-256 in the manifest");
  return value;
}

bool CheckpointReader::has(std::string_view name) const { return manifest_.has(name); }

void CheckpointReader::fail_missing(std::string_view name, const char* kind) const {
  throw CheckpointError(concat("the checkpoint ", folder_.string(), " has ",
                               has(name) ? "another kind of value than " : "no ",
                               has(name) ? concat(kind, " under '") : concat(kind, " '"), name, "'"));
}

at::Tensor CheckpointReader::tensor(std::string_view name) const {
  const auto found = manifest_.tensors.find(name);
  if (found == manifest_.tensors.end()) fail_missing(name, "tensor");
  open_file(found->second.file);
  return read(name, found->second);
}

std::int64_t CheckpointReader::integer(std::string_view name) const {
  const auto found = manifest_.integers.find(name);
  if (found == manifest_.integers.end()) fail_missing(name, "integer");
  return found->second;
}

double CheckpointReader::real(std::string_view name) const {
  const auto found = manifest_.reals.find(name);
  if (found == manifest_.reals.end()) fail_missing(name, "real");
  return found->second;
}

std::string CheckpointReader::text(std::string_view name) const {
  const auto found = manifest_.texts.find(name);
  if (found == manifest_.texts.end()) fail_missing(name, "text");
  return found->second;
}

}  // namespace kumiko
