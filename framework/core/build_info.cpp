// SPDX-License-Identifier: Apache-2.0
#include "framework/core/build_info.hpp"

#include <link.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <vector>

#include <torch/version.h>

#include "framework/core/sha256.hpp"

namespace kumiko {
namespace {

int collect(dl_phdr_info* info, std::size_t /*size*/, void* out) {
  const std::filesystem::path path(info->dlpi_name);
  if (path.filename().string().starts_with("libkumiko_")) static_cast<std::vector<std::filesystem::path>*>(out)->push_back(path);
  return 0;
}

}  // namespace

std::string kumiko_version() { return KUMIKO_VERSION; }

std::string torch_version() { return TORCH_VERSION; }

std::string build_digest() {
  std::vector<std::filesystem::path> files = {"/proc/self/exe"};
  dl_iterate_phdr(collect, &files);
  std::sort(files.begin() + 1, files.end(), [](const auto& a, const auto& b) { return a.filename() < b.filename(); });
  Sha256 digest;
  std::vector<char> buffer(1 << 20);
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    while (in) {
      in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
      digest.update(std::as_bytes(std::span(buffer.data(), static_cast<std::size_t>(in.gcount()))));
    }
  }
  return digest.hex();
}

}  // namespace kumiko
