// SPDX-License-Identifier: Apache-2.0
#include "framework/core/signals.hpp"

#include <c10/util/Exception.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <string_view>

#include "framework/core/error.hpp"

namespace kumiko {
namespace {

// Handlers may touch lock-free atomics only.
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);
std::atomic<bool> g_stop{false};
std::atomic<bool> g_checkpoint{false};
std::atomic<int> g_interrupts{0};

void on_checkpoint(int) { g_checkpoint = true; }

void on_stop(int) { g_stop = true; }

void on_interrupt(int) {
  if (g_interrupts.fetch_add(1) > 0) {
    constexpr std::string_view kLine = "kumiko: stopped at once; the last saved checkpoint stands\n";
    const ssize_t written = write(STDERR_FILENO, kLine.data(), kLine.size());
    static_cast<void>(written);
    _exit(static_cast<int>(ExitCode::interrupted));
  }
  g_stop = true;
}

void handle(int signal, void (*handler)(int), bool unless_ignored) {
  struct sigaction before {};
  TORCH_INTERNAL_ASSERT(sigaction(signal, nullptr, &before) == 0);
  if (unless_ignored && before.sa_handler == SIG_IGN) return;
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  TORCH_INTERNAL_ASSERT(sigaction(signal, &action, nullptr) == 0);
}

}  // namespace

void StopSignals::install() {
  handle(SIGUSR1, on_checkpoint, false);
  handle(SIGUSR2, on_stop, false);
  handle(SIGTERM, on_interrupt, false);
  handle(SIGINT, on_interrupt, true);
  handle(SIGHUP, on_stop, true);
}

bool StopSignals::stop_requested() noexcept { return g_stop; }
bool StopSignals::checkpoint_requested() noexcept { return g_checkpoint; }
void StopSignals::clear_checkpoint_request() noexcept { g_checkpoint = false; }

}  // namespace kumiko
