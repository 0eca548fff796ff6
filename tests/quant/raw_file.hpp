// SPDX-License-Identifier: Apache-2.0
// Files of raw values, for the tools that scripts compare with.
#pragma once

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"

namespace kumiko::quant::test {

inline at::Tensor read_floats(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  KUMIKO_EXPECTS(file.good(), UsageError, "cannot read ", path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  at::Tensor values = at::empty({static_cast<std::int64_t>(bytes.size() / sizeof(float))}, at::kFloat);
  std::copy_n(bytes.begin(), values.nbytes(), static_cast<char*>(values.mutable_data_ptr()));
  return values;
}

class RawWriter {
 public:
  explicit RawWriter(const std::string& path) : path_(path), file_(path, std::ios::binary) {}

  void write(const at::Tensor& tensor) {
    file_.write(static_cast<const char*>(tensor.const_data_ptr()),
                static_cast<std::streamsize>(tensor.nbytes()));
  }

  void close() { KUMIKO_EXPECTS(file_.flush().good(), UsageError, "cannot write ", path_); }

 private:
  std::string path_;
  std::ofstream file_;
};

}  // namespace kumiko::quant::test
