// SPDX-License-Identifier: Apache-2.0
// The safetensors format (Hugging Face): 8 bytes little-endian header size, a JSON header, raw little-endian
// tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kumiko {

struct SafetensorsEntry {
  std::string name;
  at::ScalarType dtype = at::kFloat;  // F32, BF16, F16, I64, U8
  std::vector<std::int64_t> shape;
};

// Writes a file durably (DurableStream). `tensor_of(index)` is called once for each entry, in an order of the
// writer's choice (wide dtypes first, then by name, so that every tensor is aligned to its dtype), and one
// tensor is held at a time. It returns the tensor of entries[index] on any device; another dtype or shape
// throws ShapeError. Throws CheckpointError for doubled names, dtypes outside the list, or a write that
// failed (path and bytes needed).
void write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsEntry>& entries,
                       const std::function<at::Tensor(std::size_t index)>& tensor_of,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

// A checked file. Opening reads the header only and throws CheckpointError naming the file for: a header over
// 100 MB or longer than the file, no '{' first, doubled names, unknown dtypes, shapes that overflow or do not
// match their bytes, tensors that overlap or leave holes, bytes after the last tensor.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::vector<SafetensorsEntry>& entries() const noexcept {
    return entries_;
  }  // in the order of their bytes
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  bool has(std::string_view name) const;
  // Reads one tensor onto the CPU. Throws CheckpointError for an unknown name or a file that changed since
  // open().
  at::Tensor tensor(std::string_view name) const;

 private:
  std::size_t index_of(std::string_view name) const;

  std::filesystem::path path_;
  std::vector<SafetensorsEntry> entries_;
  std::vector<std::int64_t> offsets_;  // from the start of the file
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace kumiko
