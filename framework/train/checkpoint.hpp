// SPDX-License-Identifier: Apache-2.0
// RUN/checkpoints/step-NNNNNNNN/: state-NNNN.h5 files and manifest.json.
//
// State is replicated over ranks, so rank 0 alone writes and reads, and the others receive what it reads
// through BroadcastReader: computers of a home network have no disk in common. A checkpoint therefore does
// not depend on the number of ranks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "framework/core/state.hpp"
#include "framework/train/checkpoint_reader.hpp"

namespace kumiko {

class ConfigNode;

enum class Resume { automatic, never, required };

struct CheckpointPolicy {
  std::int64_t every = 1000;  // steps
  std::int64_t keep = 2;      // newest ones kept
  Resume resume = Resume::automatic;
  std::int64_t file_bytes = std::int64_t{256}
                            << 20;  // of tensors in one file; bounds the host memory of a save

  static CheckpointPolicy parse(
      const ConfigNode& node);  // the recipe's block `checkpoint`: every, keep, resume
};

struct SaveResult {
  bool saved = false;
  std::filesystem::path folder;
  std::int64_t bytes = 0;  // of the state files
  std::string problem;     // empty when saved: what failed, where, how many bytes it needs
  std::string warning;     // saved, but older checkpoints could not be removed
};

// `checkpoints` of a run: steps that have a published folder, newest first. Nothing is checked.
std::vector<std::int64_t> checkpoint_steps(const std::filesystem::path& run_folder);
std::filesystem::path checkpoint_folder(const std::filesystem::path& run_folder, std::int64_t step);

// Tells one reason why a checkpoint is passed over.
using OnSkip = std::function<void(const std::string&)>;

// The newest checkpoint of a run that verifies; nothing when the run has none. `on_skip` hears what is wrong
// with each newer one. Throws CheckpointError listing all of them when every one is damaged, and for one of a
// later format.
std::unique_ptr<CheckpointReader> newest_checkpoint(const std::filesystem::path& run_folder,
                                                    const OnSkip& on_skip);

// PATH is a run folder (its newest checkpoint that verifies) or a checkpoint's own folder. Throws
// CheckpointError when there is none.
std::unique_ptr<CheckpointReader> open_checkpoint(const std::filesystem::path& path, const OnSkip& on_skip);

// Content digest of open_checkpoint(path), after all of it was verified.
std::string content_digest(const std::filesystem::path& path, const OnSkip& on_skip);

// Writes a run's checkpoints. One store at a time for a run: its maker holds the run folder's lock; rank 0
// only.
class CheckpointStore {
 public:
  // Removes what saves of dead runs left unfinished.
  CheckpointStore(std::filesystem::path run_folder, CheckpointPolicy policy);

  const CheckpointPolicy& policy() const noexcept { return policy_; }

  // The checkpoint to go on from under policy().resume: `automatic` the newest that verifies or nothing;
  // `required` throws CheckpointError when there is none; `never` throws UsageError when the run has any.
  std::unique_ptr<CheckpointReader> resume(const OnSkip& on_skip);

  // Writes beside, syncs, publishes by one rename, reads all of it back and then removes the oldest beyond
  // policy().keep. `write` is called twice (to measure, to save), does not communicate and gives the same
  // names both times. A write, sync or close that fails voids the attempt, is not tried again, leaves nothing
  // behind and is told in SaveResult::problem: older checkpoints stay and training can go on. What `write`
  // itself throws comes through.
  SaveResult save(std::int64_t step, const CheckpointMeta& meta,
                  const std::function<void(StateWriter&)>& write);

 private:
  class Attempt;
  void write_and_publish(std::int64_t step, const CheckpointMeta& meta,
                         const std::function<void(StateWriter&)>& write, SaveResult& result);
  std::string remove_old(std::int64_t step);

  std::filesystem::path run_folder_;
  CheckpointPolicy policy_;
  std::set<std::int64_t> damaged_;  // found by resume(); they do not count as kept
};

}  // namespace kumiko
