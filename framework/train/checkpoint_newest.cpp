// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <system_error>

#include "framework/train/checkpoint.hpp"

namespace kumiko {
namespace {

constexpr std::string_view kPrefix = "step-";
constexpr std::size_t kDigits = 8;

std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix) || name.size() < kPrefix.size() + kDigits) return std::nullopt;
  std::int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [last, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || last != end || step < 0) return std::nullopt;
  return step;
}

}  // namespace

std::filesystem::path checkpoint_folder(const std::filesystem::path& run_folder, std::int64_t step) {
  std::array<char, 40> name{};
  std::snprintf(name.data(), name.size(), "step-%08lld", static_cast<long long>(step));
  return run_folder / "checkpoints" / name.data();
}

std::vector<std::int64_t> checkpoint_steps(const std::filesystem::path& run_folder) {
  std::vector<std::int64_t> steps;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(run_folder / "checkpoints", error)) {
    const auto step = step_of(item.path().filename().string());
    if (step && item.is_directory(error)) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::unique_ptr<CheckpointReader> newest_checkpoint(const std::filesystem::path& run_folder,
                                                    const OnSkip& on_skip) {
  std::string problems;
  for (const std::int64_t step : checkpoint_steps(run_folder)) {
    try {
      auto reader = std::make_unique<CheckpointReader>(checkpoint_folder(run_folder, step));
      KUMIKO_EXPECTS(reader->manifest().step == step, CheckpointError, reader->folder().string(),
                     " holds step ", reader->manifest().step);
      return reader;
    } catch (const NewerCheckpointError&) {
      throw;
    } catch (const CheckpointError& error) {
      if (on_skip) on_skip(concat("skipped the checkpoint of step ", step, ": ", error.what()));
      problems += concat("\n  ", error.what());
    }
  }
  KUMIKO_EXPECTS(problems.empty(), CheckpointError, "no checkpoint in ",
                 (run_folder / "checkpoints").string(), " is sound:", problems,
                 "\nrestore one from a copy, or choose another output_dir to begin anew");
  return nullptr;
}

std::unique_ptr<CheckpointReader> open_checkpoint(const std::filesystem::path& path, const OnSkip& on_skip) {
  std::error_code error;
  KUMIKO_EXPECTS(std::filesystem::is_directory(path, error), CheckpointError, path.string(),
                 std::filesystem::exists(path, error) ? " is no folder" : " does not exist",
                 "; name a run folder or one of its checkpoints");
  if (std::filesystem::exists(path / kManifestName, error)) return std::make_unique<CheckpointReader>(path);
  auto reader = newest_checkpoint(path, on_skip);
  KUMIKO_EXPECTS(reader, CheckpointError, path.string(),
                 " holds no checkpoint; name a run folder in which 'kumiko train' has saved one");
  return reader;
}

std::string content_digest(const std::filesystem::path& path, const OnSkip& on_skip) {
  return content_digest(open_checkpoint(path, on_skip)->manifest());
}

}  // namespace kumiko
