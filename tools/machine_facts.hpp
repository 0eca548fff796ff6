// SPDX-License-Identifier: Apache-2.0
// What `kumiko doctor` knows about this computer. Looking and judging are apart, so that the judgement is
// tested with any computer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace kumiko::tools {

struct NetworkInterface {
  std::string name;
  std::string subnet;  // IPv4, "192.168.1.0/24"
};

struct MachineFacts {
  std::string kumiko_version;
  std::string build_digest;
  std::string torch_version;
  bool has_cuda = false;  // this binary computes on NVIDIA GPUs
  std::string cpu_model;
  std::vector<std::string> cpu_flags;  // words of /proc/cpuinfo
  int cores = 1;                       // that this process may use
  std::int64_t memory_bytes = 0;
  std::int64_t available_memory_bytes = 0;
  std::optional<std::string> nvidia_driver;  // its version
  std::optional<std::string> mpirun;         // first line of mpirun --version
  bool is_root = false;
  bool mpirun_may_run_as_root = false;       // Open MPI's two variables are set
  std::vector<NetworkInterface> interfaces;  // up, with an IPv4 address, without the loopback
  std::filesystem::path folder;              // that runs are written to
  std::optional<std::int64_t> free_disk_bytes;
  std::optional<std::string> write_error;  // of a small file written and synced there
  double write_seconds = 0.0;
};

// Writes, syncs and removes one small file in `folder`. Never throws for what it cannot find out.
MachineFacts look_at_machine(const std::filesystem::path& folder);

// The value of the first line "KEY : value" of a text like /proc/cpuinfo, "" without one.
std::string field_of(const std::string& text, const std::string& key);

}  // namespace kumiko::tools
