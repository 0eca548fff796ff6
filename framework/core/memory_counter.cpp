// SPDX-License-Identifier: Apache-2.0
#include "framework/core/memory_counter.hpp"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <string>

#include "framework/core/error.hpp"
#include "framework/core/format.hpp"

namespace kumiko::memory_counter {
namespace {

std::atomic<std::int64_t> g_current{0};
std::atomic<std::int64_t> g_peak{0};
std::atomic<std::int64_t> g_allocations{0};

// In front of each block: LibTorch gives a deleter nothing but the block's address.
struct alignas(64) Header {
  std::int64_t bytes;
};
constexpr std::size_t kAlignment = 64;
static_assert(sizeof(Header) == kAlignment);

void count(std::int64_t bytes) noexcept {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  const std::int64_t now = g_current.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  std::int64_t peak = g_peak.load(std::memory_order_relaxed);
  while (now > peak && !g_peak.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

void release(void* block) noexcept {
  if (block == nullptr) return;
  Header* header = static_cast<Header*>(block) - 1;
  g_current.fetch_sub(header->bytes, std::memory_order_relaxed);
  std::free(header);
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    void* memory = nullptr;
    const bool fits = bytes < static_cast<std::size_t>(INT64_MAX) - sizeof(Header);
    KUMIKO_EXPECTS(fits && posix_memalign(&memory, kAlignment, bytes + sizeof(Header)) == 0, OutOfMemoryError,
                   "cannot allocate ", format_bytes(static_cast<std::int64_t>(fits ? bytes : INT64_MAX)),
                   " of memory beside the ", format_bytes(current_bytes()),
                   " that tensors hold; a smaller train.micro_batch_size needs less");
    auto* header = static_cast<Header*>(memory);
    header->bytes = static_cast<std::int64_t>(bytes);
    count(header->bytes);
    return {header + 1, header + 1, &release, cpu};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* destination, const void* source, std::size_t bytes) const override {
    default_copy_data(destination, source, bytes);
  }
};

// `field` of /proc/self/status, which is in KiB.
std::int64_t status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":"))
      return std::strtoll(line.c_str() + field.size() + 1, nullptr, 10) * 1024;
  }
  return 0;
}

}  // namespace

void install() {
  static CountingAllocator allocator;
  static const bool installed = [] {
    constexpr int kKeepBelow = 1 << 30;
    mallopt(M_MMAP_THRESHOLD, kKeepBelow);
    mallopt(M_TRIM_THRESHOLD, kKeepBelow);
    constexpr std::uint8_t kPriority = 1;
    c10::SetCPUAllocator(&allocator, kPriority);
    return true;
  }();
  static_cast<void>(installed);
}

std::int64_t current_bytes() noexcept { return g_current.load(std::memory_order_relaxed); }
std::int64_t peak_bytes() noexcept { return g_peak.load(std::memory_order_relaxed); }
void reset_peak() noexcept { g_peak.store(current_bytes(), std::memory_order_relaxed); }
std::int64_t allocations() noexcept { return g_allocations.load(std::memory_order_relaxed); }
std::int64_t resident_bytes() { return status_bytes("VmRSS"); }
std::int64_t peak_resident_bytes() { return status_bytes("VmHWM"); }

}  // namespace kumiko::memory_counter
