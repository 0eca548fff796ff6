// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <utility>

#include <sys/mount.h>

namespace kumiko::test {

// A file system of its own size; root only.
class Mounted {
 public:
  explicit Mounted(std::filesystem::path path) : path_(std::move(path)) {
    std::filesystem::create_directories(path_);
  }
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;
  ~Mounted() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mount(const char* size) {
    mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, size) == 0;
    return mounted_;
  }
  bool grow(const char* size) const {
    return ::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT, size) == 0;
  }

 private:
  std::filesystem::path path_;
  bool mounted_ = false;
};

}  // namespace kumiko::test
