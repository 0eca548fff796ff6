// SPDX-License-Identifier: Apache-2.0
// What signals ask of a run; polled between steps. On every rank:
//   SIGUSR1              save a checkpoint and go on
//   SIGUSR2              finish the step, save a checkpoint, exit 0
//   SIGINT, SIGTERM      the first is SIGUSR2; the second stops at once with exit code 130
//   SIGHUP               SIGUSR2
// SIGINT and SIGHUP stay ignored where the process was started with them ignored (nohup, a shell's background job).
#pragma once

namespace kumiko {

class StopSignals {
 public:
  static void install();                          // idempotent; restarts interrupted system calls
  static bool stop_requested() noexcept;
  static bool checkpoint_requested() noexcept;
  static void clear_checkpoint_request() noexcept;
};

}  // namespace kumiko
