// SPDX-License-Identifier: Apache-2.0
#include "data/shard_folder.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/core/log.hpp"

namespace kumiko::data {
namespace {

namespace fs = std::filesystem;

// Lists the names to remove, "-NAME", and to put in place, "+NAME"; gone when that is done.
constexpr const char* kJournal = ".publishing";

// May be repeated from any point at which it was broken off.
void carry_out(const fs::path& folder) {
  std::ifstream in(folder / kJournal);
  for (std::string line; std::getline(in, line);) {
    if (line.size() < 2) continue;
    const fs::path path = folder / line.substr(1);
    const fs::path partial = path.string() + std::string(kPartialShard);
    if (line.front() == '-') {
      fs::remove(path);
    } else if (fs::exists(partial)) {
      fs::rename(partial, path);
    }
  }
  sync_directory(folder);
  fs::remove(folder / kJournal);
  sync_directory(folder);
}

template <class Action>
void put_in_place(const Action& action) {
  try {
    action();
  } catch (const std::exception& error) {
    throw DataError(concat("the shards cannot be put in place: ", error.what()));
  }
}

}  // namespace

ShardFolderLock::ShardFolderLock(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  KUMIKO_EXPECTS(!error && fs::is_directory(folder), UsageError, "output folder '", folder.string(), "' cannot be made: ",
                 error ? error.message() : "it is a file");
  descriptor_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  KUMIKO_EXPECTS(descriptor_ >= 0, UsageError, "output folder '", folder.string(), "' cannot be opened: ", std::strerror(errno));
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    log::info(concat("another command is making shards in ", folder.string(), ": waiting for it"));
    while (::flock(descriptor_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  if (!is_being_published(folder)) return;
  try {
    put_in_place([&] { carry_out(folder); });
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

ShardFolderLock::~ShardFolderLock() { ::close(descriptor_); }

void publish_shards(const fs::path& folder, const std::vector<fs::path>& old, const std::vector<fs::path>& made) {
  std::string journal;
  for (const fs::path& path : old) {
    if (std::ranges::find(made, path) == made.end()) journal += "-" + path.filename().string() + "\n";
  }
  for (const fs::path& path : made) journal += "+" + path.filename().string() + "\n";
  put_in_place([&] { write_file_durably(folder / kJournal, journal); });
  put_in_place([&] { carry_out(folder); });
}

bool is_being_published(const fs::path& folder) {
  std::error_code unknown;
  return fs::exists(folder / kJournal, unknown);
}

}  // namespace kumiko::data
