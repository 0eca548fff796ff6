// SPDX-License-Identifier: Apache-2.0
#include "tools/machine_facts.hpp"

#include <algorithm>
#include <bit>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <system_error>
#include <thread>

#include <ATen/Context.h>
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sched.h>
#include <unistd.h>

#include "framework/core/build_info.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"

namespace kumiko::tools {
namespace {

std::string text_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::int64_t kib_field(const std::string& text, const std::string& key) {
  return std::strtoll(field_of(text, key).c_str(), nullptr, 10) * 1024;
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar ..."
std::optional<std::string> nvidia_driver() {
  for (const std::string& word : words_of(field_of(text_of("/proc/driver/nvidia/version"), "NVRM version"))) {
    if (std::isdigit(static_cast<unsigned char>(word.front())) != 0 && word.find('.') != std::string::npos)
      return word;
  }
  std::error_code ignored;
  if (std::filesystem::exists("/dev/nvidiactl", ignored)) return "of unknown version";
  return std::nullopt;
}

std::optional<std::string> mpirun_version() {
  const auto close = [](FILE* pipe) { pclose(pipe); };
  const std::unique_ptr<FILE, decltype(close)> pipe(popen("mpirun --version 2>/dev/null", "r"), close);
  char line[256];
  if (!pipe || std::fgets(line, sizeof(line), pipe.get()) == nullptr) return std::nullopt;
  std::string text = line;
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.pop_back();
  return text;
}

std::uint32_t ipv4_of(const sockaddr* address) {
  return ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr);
}

std::string subnet_of(const ifaddrs& entry) {
  const std::uint32_t mask = ipv4_of(entry.ifa_netmask);
  const in_addr network{htonl(ipv4_of(entry.ifa_addr) & mask)};
  char text[INET_ADDRSTRLEN] = {};
  inet_ntop(AF_INET, &network, text, sizeof(text));
  return concat(text, "/", std::popcount(mask));
}

std::vector<NetworkInterface> interfaces() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(first, freeifaddrs);
  std::vector<NetworkInterface> found;
  for (const ifaddrs* entry = first; entry != nullptr; entry = entry->ifa_next) {
    const bool is_ipv4 =
        entry->ifa_addr != nullptr && entry->ifa_netmask != nullptr && entry->ifa_addr->sa_family == AF_INET;
    if (!is_ipv4 || (entry->ifa_flags & IFF_UP) == 0 || (entry->ifa_flags & IFF_LOOPBACK) != 0) continue;
    found.push_back({entry->ifa_name, subnet_of(*entry)});
  }
  return found;
}

void try_to_write(MachineFacts& facts) {
  const std::filesystem::path file = facts.folder / concat(".kumiko-doctor-", getpid());
  const auto start = std::chrono::steady_clock::now();
  try {
    write_file_durably(file, std::string(1 << 20, 'k'));
  } catch (const std::exception& error) {
    facts.write_error = error.what();
  }
  facts.write_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::error_code ignored;
  std::filesystem::remove(file, ignored);
}

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && std::string(value) == "1";
}

}  // namespace

std::string field_of(const std::string& text, const std::string& key) {
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, key.size(), key) != 0) continue;
    if (line.find_first_not_of(" \t", key.size()) != colon) continue;
    const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

MachineFacts look_at_machine(const std::filesystem::path& folder) {
  MachineFacts facts;
  facts.kumiko_version = kumiko_version();
  facts.build_digest = build_digest();
  facts.torch_version = torch_version();
  facts.has_cuda = at::hasCUDA();

  const std::string cpu = text_of("/proc/cpuinfo");
  facts.cpu_model = field_of(cpu, "model name");
  facts.cpu_flags = words_of(field_of(cpu, "flags") + " " + field_of(cpu, "Features"));
  facts.cores = usable_cores();
  const std::string memory = text_of("/proc/meminfo");
  facts.memory_bytes = kib_field(memory, "MemTotal");
  facts.available_memory_bytes = kib_field(memory, "MemAvailable");

  facts.nvidia_driver = nvidia_driver();
  facts.mpirun = mpirun_version();
  facts.is_root = geteuid() == 0;
  facts.mpirun_may_run_as_root = is_set("OMPI_ALLOW_RUN_AS_ROOT") && is_set("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM");
  facts.interfaces = interfaces();

  std::error_code error;
  facts.folder = std::filesystem::weakly_canonical(std::filesystem::absolute(folder, error), error);
  const auto space = std::filesystem::space(facts.folder, error);
  if (!error) facts.free_disk_bytes = static_cast<std::int64_t>(space.available);
  try_to_write(facts);
  return facts;
}

}  // namespace kumiko::tools
