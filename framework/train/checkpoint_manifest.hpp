// SPDX-License-Identifier: Apache-2.0
// manifest.json of a checkpoint: what is in it, where, and the digests that prove it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/ScalarType.h>

#include "framework/core/error.hpp"

namespace kumiko {

inline constexpr std::int64_t kCheckpointFormatVersion = 1;
inline constexpr std::string_view kManifestName = "manifest.json";

// A checkpoint of a later format: not damaged, so nothing older is taken in its place.
class NewerCheckpointError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};

// What a checkpoint says about its run beside the state.
struct CheckpointMeta {
  std::int64_t world_size = 1;
  std::string recipe;  // resolved, YAML
  std::string code_version;
};

struct ManifestTensor {
  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> shape;
  std::int64_t bytes = 0;
  std::string sha256;    // of the bytes, row-major, little-endian
  std::size_t file = 0;  // index into Manifest::files
};

struct ManifestFile {
  std::string name;  // plain, within the checkpoint's folder
  std::int64_t bytes = 0;
  std::string sha256;
};

struct Manifest {
  std::int64_t step = 0;
  CheckpointMeta meta;
  std::string created;  // UTC, for people
  std::vector<ManifestFile> files;
  std::map<std::string, ManifestTensor, std::less<>> tensors;
  std::map<std::string, std::int64_t, std::less<>> integers;
  std::map<std::string, double, std::less<>> reals;
  std::map<std::string, std::string, std::less<>> texts;

  bool has(std::string_view name) const;
};

// SHA-256 over the step and, sorted by name, each value's name, kind (a tensor's dtype), shape and the
// SHA-256 of its bytes. Independent of rank split, file layout, recipe text and time; any state bit changes
// it.
std::string content_digest(const Manifest& manifest);

// JSON whose last member is the SHA-256 of all text before it, in every format version.
std::string encode_manifest(const Manifest& manifest);

// Checks the digest, then everything: versions, plain and distinct file names, shapes that match their bytes,
// digests' form. Throws CheckpointError "FILE: ..." for damage, NewerCheckpointError for a later format.
Manifest decode_manifest(std::string_view text, const std::filesystem::path& file);

// Names of dtypes in manifests ("f32"). Throws CheckpointError for one that checkpoints do not hold.
std::string_view checkpoint_dtype_name(at::ScalarType dtype);

// Throws CheckpointError unless `name` is 1 to 400 printable ASCII characters without ':', blank or
// backslash, and neither "." nor "..".
void check_state_name(std::string_view name);

}  // namespace kumiko
