// SPDX-License-Identifier: Apache-2.0
#include "tools/commands/doctor.hpp"

#include <algorithm>
#include <array>
#include <iomanip>
#include <iostream>
#include <memory>
#include <sstream>
#include <string_view>
#include <utility>

#include <CLI/CLI.hpp>

#include "framework/core/error.hpp"
#include "framework/core/format.hpp"

namespace kumiko::tools {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;

Finding check_build(const MachineFacts& facts) {
  return {Health::ok, "kumiko",
          concat(facts.kumiko_version, ", build ", facts.build_digest.substr(0, 12), ", LibTorch ",
                 facts.torch_version, facts.has_cuda ? ", with CUDA" : ", without CUDA")};
}

bool has_flag(const MachineFacts& facts, std::string_view flag) {
  return std::find(facts.cpu_flags.begin(), facts.cpu_flags.end(), flag) != facts.cpu_flags.end();
}

Finding check_cpu(const MachineFacts& facts) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kSets{
      {{"avx2", "AVX2"},
       {"avx512f", "AVX-512"},
       {"avx512_bf16", "AVX-512 bf16"},
       {"amx_bf16", "AMX bf16"},
       {"amx_int8", "AMX int8"},
       {"asimd", "NEON"},
       {"sve", "SVE"},
       {"bf16", "bf16"}}};
  std::string found;
  for (const auto& [flag, name] : kSets) {
    if (has_flag(facts, flag)) found += concat(found.empty() ? "" : ", ", name);
  }
  const std::string model = facts.cpu_model.empty() ? "a processor of unknown model" : facts.cpu_model;
  const std::string text = concat(model, ", ", facts.cores, facts.cores == 1 ? " core" : " cores", ", ",
                                  found.empty() ? "no vector units known" : found);
  if (has_flag(facts, "avx2") || has_flag(facts, "asimd")) return {Health::ok, "cpu", text};
  return {Health::note, "cpu", text + ": without AVX2 everything works, several times slower"};
}

Finding check_memory(const MachineFacts& facts) {
  const std::string text = concat(format_bytes(facts.available_memory_bytes), " of ",
                                  format_bytes(facts.memory_bytes), " available");
  if (facts.available_memory_bytes >= 2 * kGiB) return {Health::ok, "memory", text};
  return {Health::note, "memory", text + ": little; 'kumiko train RECIPE --dry-run' says what a run needs"};
}

Finding check_gpu(const MachineFacts& facts) {
  if (!facts.nvidia_driver) return {Health::ok, "gpu", "no NVIDIA driver; training runs on the CPU"};
  const std::string text = concat("NVIDIA driver ", *facts.nvidia_driver);
  if (facts.has_cuda) return {Health::ok, "gpu", text};
  return {Health::note, "gpu", text + ", but this build has no CUDA and trains on the CPU"};
}

Finding check_mpirun(const MachineFacts& facts) {
  if (!facts.mpirun) {
    return {Health::note, "mpirun",
            "not found: one process works; for several ranks install it (Debian: apt install openmpi-bin)"};
  }
  if (facts.mpirun->find("Open MPI") != std::string::npos ||
      facts.mpirun->find("OpenRTE") != std::string::npos) {
    return {Health::ok, "mpirun", *facts.mpirun};
  }
  return {Health::note, "mpirun",
          concat("found '", *facts.mpirun, "': Kumiko is built and tested with Open MPI; use its mpirun")};
}

Finding check_root(const MachineFacts& facts) {
  if (!facts.is_root) return {Health::ok, "root", "not running as root"};
  if (facts.mpirun_may_run_as_root)
    return {Health::ok, "root", "running as root, and mpirun is told that this is wanted"};
  return {Health::note, "root",
          "running as root, which mpirun refuses: use another user, or in a container add "
          "--allow-run-as-root to mpirun, or set "
          "OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"};
}

Finding check_slots(const MachineFacts& facts) {
  return {Health::ok, "slots",
          concat("mpirun starts up to ", facts.cores, facts.cores == 1 ? " rank" : " ranks",
                 " on this computer; 'not enough slots' for more is answered by --oversubscribe (they share "
                 "the cores)")};
}

bool is_virtual(const std::string& name) {
  constexpr std::array<std::string_view, 14> kPrefixes{"docker", "br-",     "virbr",     "veth", "vmnet",
                                                       "cni",    "flannel", "podman",    "tun",  "tap",
                                                       "wg",     "zt",      "tailscale", "ifb"};
  return std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [&](std::string_view prefix) { return name.compare(0, prefix.size(), prefix) == 0; });
}

Finding check_network(const MachineFacts& facts) {
  std::string list;
  for (const NetworkInterface& one : facts.interfaces)
    list += concat(list.empty() ? "" : ", ", one.name, " ", one.subnet);
  if (facts.interfaces.empty())
    return {Health::ok, "network", "no interface is up: ranks on this computer only"};
  if (facts.interfaces.size() == 1) return {Health::ok, "network", list};
  const auto real = std::find_if(facts.interfaces.begin(), facts.interfaces.end(),
                                 [](const auto& one) { return !is_virtual(one.name); });
  const std::string subnet = real == facts.interfaces.end() ? facts.interfaces.front().subnet : real->subnet;
  return {Health::note, "network",
          concat("several interfaces (", list,
                 "): with ranks on several computers tell mpirun which one joins them, or they may hang: "
                 "--mca btl_tcp_if_include ",
                 subnet, " --mca oob_tcp_if_include ", subnet)};
}

Finding check_disk(const MachineFacts& facts) {
  if (!facts.free_disk_bytes)
    return {Health::note, "disk", concat("the free space of ", facts.folder.string(), " is unknown")};
  const std::string text = concat(format_bytes(*facts.free_disk_bytes), " free in ", facts.folder.string());
  if (*facts.free_disk_bytes >= 5 * kGiB) return {Health::ok, "disk", text};
  if (*facts.free_disk_bytes >= 100 * kMiB) {
    return {Health::note, "disk",
            text + ": little for shards and checkpoints; keep fewer (checkpoint.keep) or free some"};
  }
  return {Health::problem, "disk",
          text + ": too little to save a checkpoint; free some, or choose another folder"};
}

Finding check_writing(const MachineFacts& facts) {
  if (facts.write_error) {
    return {Health::problem, "writing",
            concat(*facts.write_error, "; choose a folder that you may write to (--folder, output_dir)")};
  }
  std::ostringstream seconds;
  seconds << std::setprecision(2) << facts.write_seconds;
  const std::string text = concat("1 MiB written and synced in ", seconds.str(), " s");
  if (facts.write_seconds <= 1.0) return {Health::ok, "writing", text};
  return {Health::note, "writing", text + ": a slow disk or network folder; checkpoints will take long"};
}

std::string_view word_for(Health health) {
  switch (health) {
    case Health::ok:
      return "ok";
    case Health::note:
      return "note";
    case Health::problem:
      break;
  }
  return "problem";
}

void run_doctor(const std::string& folder) {
  const std::vector<Finding> findings = diagnose(look_at_machine(folder));
  std::cout << to_text(findings) << std::flush;
  const auto problems = std::count_if(findings.begin(), findings.end(),
                                      [](const Finding& one) { return one.health == Health::problem; });
  KUMIKO_EXPECTS(problems == 0, UsageError, "found ", problems, problems == 1 ? " problem" : " problems",
                 " on this computer, listed above");
}

}  // namespace

std::vector<Finding> diagnose(const MachineFacts& facts) {
  return {check_build(facts),  check_cpu(facts),    check_memory(facts), check_gpu(facts),
          check_mpirun(facts), check_root(facts),   check_slots(facts),  check_network(facts),
          check_disk(facts),   check_writing(facts)};
}

std::string to_text(const std::vector<Finding>& findings) {
  std::ostringstream out;
  for (const Finding& one : findings) {
    out << std::left << std::setw(9) << word_for(one.health) << std::setw(9) << one.subject << one.text
        << '\n';
  }
  return out.str();
}

void add_doctor(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("doctor", "Looks at this computer and says what would be in the way of a run");
  const auto folder = std::make_shared<std::string>(".");
  command->add_option("--folder", *folder, "folder that runs are to be written to")->capture_default_str();
  command->callback([folder] { run_doctor(*folder); });
}

}  // namespace kumiko::tools
