// SPDX-License-Identifier: Apache-2.0
// A folder of shards that several processes may want to fill.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

namespace kumiko::data {

// Beside the name of a shard that is being written.
inline constexpr std::string_view kPartialShard = ".partial";

// Exclusive use of a folder for making shards in it, until destruction or the end of the process, however it ends. File systems
// that lock no folders (NFS) exclude nobody.
class ShardFolderLock {
 public:
  // Makes the folder, waits for another holder and says so, and finishes what a holder that died was putting in place. Throws
  // UsageError when the folder cannot be made or opened, DataError when the shards cannot be put in place.
  explicit ShardFolderLock(const std::filesystem::path& folder);
  ShardFolderLock(const ShardFolderLock&) = delete;
  ShardFolderLock& operator=(const ShardFolderLock&) = delete;
  ~ShardFolderLock();

 private:
  int descriptor_ = -1;
};

// Removes `old` and gives the shards of `made`, which lie in the folder under their partial names, their own. Once it has begun,
// it is carried out whole: by the next ShardFolderLock where this process dies. Throws DataError.
void publish_shards(const std::filesystem::path& folder, const std::vector<std::filesystem::path>& old,
                    const std::vector<std::filesystem::path>& made);

// Between the begin and the end of publish_shards: what lies there is a part of two sets of shards.
bool is_being_published(const std::filesystem::path& folder);

}  // namespace kumiko::data
