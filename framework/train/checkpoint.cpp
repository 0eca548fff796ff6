// SPDX-License-Identifier: Apache-2.0
#include "framework/train/checkpoint.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <new>
#include <system_error>

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "framework/core/config.hpp"
#include "framework/core/files.hpp"
#include "framework/core/format.hpp"
#include "framework/train/checkpoint_writer.hpp"

namespace kumiko {
namespace {

constexpr std::string_view kTemporary = ".tmp-";
constexpr std::int64_t kSpareBytes = 1 << 20;  // left for metrics and the file system's own tables

[[noreturn]] void fail(const std::string& action, const std::filesystem::path& path, int error_number) {
  throw FileError(error_number, concat("cannot ", action, " ", path.string(), ": ",
                                       std::generic_category().message(error_number)));
}

void make_directory(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::create_directory(path, error)) {
    sync_directory(path.parent_path());
  } else if (error) {
    fail("make", path, error.value());
  }
}

void check_space(const std::filesystem::path& folder, std::int64_t needed) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) fail("look at", folder, errno);
  const auto free = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize);
  if (free < static_cast<double>(needed + kSpareBytes)) {
    throw FileError(ENOSPC, concat("cannot write in ", folder.string(), ": only ",
                                   format_bytes(static_cast<std::int64_t>(free)), " are free, of which ",
                                   format_bytes(kSpareBytes), " must stay so"));
  }
}

// Puts `from` at `to`. A folder that is there already (damaged, or of an earlier run to this step) is at
// `from` afterwards.
void publish(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  if (!std::filesystem::exists(to, error)) {
    if (::rename(from.c_str(), to.c_str()) != 0) fail("rename to", to, errno);
    return;
  }
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) fail("exchange", to, errno);
  const std::filesystem::path aside = from.string() + "-old";
  if (::rename(to.c_str(), aside.c_str()) != 0) fail("rename", to, errno);
  if (::rename(from.c_str(), to.c_str()) != 0) fail("rename to", to, errno);
  std::filesystem::remove_all(aside, error);
}

}  // namespace

// A folder beside the published ones; what is at its path when it ends is removed.
class CheckpointStore::Attempt {
 public:
  explicit Attempt(const std::filesystem::path& target)
      : path_(concat(target.string(), kTemporary, ::getpid())) {
    if (std::error_code error; !std::filesystem::create_directory(path_, error)) {
      fail("make", path_, error ? error.value() : EEXIST);
    }
  }
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;
  ~Attempt() {
    std::error_code ignored;  // the next run removes what stays
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

CheckpointPolicy CheckpointPolicy::parse(const ConfigNode& node) {
  static constexpr std::array<std::pair<std::string_view, Resume>, 3> kResume{
      {{"auto", Resume::automatic}, {"never", Resume::never}, {"required", Resume::required}}};
  CheckpointPolicy policy;
  policy.every = node.integer("every", policy.every, {.min = 1});
  policy.keep = node.integer("keep", policy.keep, {.min = 1});
  policy.resume = node.choice("resume", policy.resume, kResume);
  return policy;
}

CheckpointStore::CheckpointStore(std::filesystem::path run_folder, CheckpointPolicy policy)
    : run_folder_(std::move(run_folder)), policy_(policy) {
  std::error_code error;
  std::vector<std::filesystem::path> dead;
  for (const auto& item : std::filesystem::directory_iterator(run_folder_ / "checkpoints", error)) {
    const std::string name = item.path().filename().string();
    if (name.starts_with("step-") && name.find(kTemporary) != std::string::npos) dead.push_back(item.path());
  }
  for (const auto& path : dead) std::filesystem::remove_all(path, error);
}

std::unique_ptr<CheckpointReader> CheckpointStore::resume(const OnSkip& on_skip) {
  const auto steps = checkpoint_steps(run_folder_);
  KUMIKO_EXPECTS(policy_.resume != Resume::never || steps.empty(), UsageError, run_folder_.string(),
                 " has the checkpoint of step ", steps.empty() ? 0 : steps.front(),
                 ", and checkpoint.resume is 'never'; choose another output_dir, or set "
                 "checkpoint.resume=auto to go on");
  auto reader = newest_checkpoint(run_folder_, on_skip);
  KUMIKO_EXPECTS(
      reader || policy_.resume != Resume::required, CheckpointError, run_folder_.string(),
      " has no checkpoint, and checkpoint.resume is 'required'; set checkpoint.resume=auto to begin a run");
  for (const std::int64_t step : steps) {
    if (reader && step > reader->manifest().step) damaged_.insert(step);
  }
  return reader;
}

SaveResult CheckpointStore::save(std::int64_t step, const CheckpointMeta& meta,
                                 const std::function<void(StateWriter&)>& write) {
  SaveResult result{.folder = checkpoint_folder(run_folder_, step)};
  StateMeter meter;
  write(meter);
  const std::int64_t needed = meter.bytes() + static_cast<std::int64_t>(meta.recipe.size());
  const auto failed = [&](const std::string& what) {
    result.saved = false;
    result.problem = concat("cannot save the checkpoint of step ", step, ": ", what, " (it needs ", needed,
                            " bytes, ", format_bytes(needed), ")");
  };
  try {
    make_directory(run_folder_ / "checkpoints");
    check_space(run_folder_ / "checkpoints", needed);
    write_and_publish(step, meta, write, result);
  } catch (const FileError& error) {
    failed(error.what());
  } catch (const data::H5Error& error) {
    failed(error.what());
  } catch (const std::bad_alloc&) {
    failed("not enough memory for one of its files");
  }
  if (result.saved) result.warning = remove_old(step);
  return result;
}

void CheckpointStore::write_and_publish(std::int64_t step, const CheckpointMeta& meta,
                                        const std::function<void(StateWriter&)>& write, SaveResult& result) {
  std::optional<Attempt> attempt(std::in_place, result.folder);
  CheckpointWriter writer(attempt->path(), policy_.file_bytes);
  write(writer);
  const Manifest& manifest = writer.finish(step, meta);
  for (const auto& file : manifest.files) result.bytes += file.bytes;
  sync_directory(attempt->path());
  publish(attempt->path(), result.folder);
  try {
    sync_directory(result.folder.parent_path());
    const CheckpointReader check(result.folder);
    if (content_digest(check.manifest()) != content_digest(manifest)) {
      throw FileError(EIO, concat(result.folder.string(), " holds something else than was written"));
    }
  } catch (const std::exception& error) {
    // What cannot be shown to be on the disk is taken back. An older folder of this step, if any, is
    // restored.
    std::error_code ignored;
    const std::filesystem::path& beside = attempt->path();
    if (std::filesystem::exists(beside, ignored)) {
      publish(beside, result.folder);
    } else if (::rename(result.folder.c_str(), beside.c_str()) != 0) {
      std::filesystem::remove(result.folder / kManifestName, ignored);
    }
    throw FileError(EIO, error.what());
  }
  damaged_.erase(step);
  result.saved = true;
}

std::string CheckpointStore::remove_old(std::int64_t step) {
  std::string problems;
  std::int64_t kept = 0;
  for (const std::int64_t older : checkpoint_steps(run_folder_)) {
    if (older > step) continue;
    if (!damaged_.contains(older) && kept++ < policy_.keep) continue;
    // Renamed first: a folder half removed must not look like a damaged checkpoint.
    const auto folder = checkpoint_folder(run_folder_, older);
    const std::filesystem::path doomed = concat(folder.string(), kTemporary, ::getpid(), "-old");
    std::error_code error;
    if (::rename(folder.c_str(), doomed.c_str()) != 0) error.assign(errno, std::generic_category());
    if (!error) std::filesystem::remove_all(doomed, error);
    if (error) {
      problems += concat(problems.empty() ? "" : "; ", "cannot remove the old checkpoint ", folder.string(),
                         ": ", error.message());
    }
    damaged_.erase(older);
  }
  return problems;
}

}  // namespace kumiko
