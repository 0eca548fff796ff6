// SPDX-License-Identifier: Apache-2.0
#define OMPI_SKIP_MPICXX 1  // Open MPI's C++ bindings, not linked
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>

#include <mpi.h>

#include "dist/communicator.hpp"
#include "dist/queued_communicator.hpp"
#include "framework/core/error.hpp"

namespace kumiko::dist {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMessageBytes = std::size_t{1} << 30;  // MPI counts are int
constexpr int kTag = 0;

std::string mpi_reason(int code) {
  std::array<char, MPI_MAX_ERROR_STRING + 1> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) return concat("MPI error ", code);
  return std::string(text.data(), static_cast<std::size_t>(length));
}

void expect_mpi(int code, const char* call) {
  KUMIKO_EXPECTS(code == MPI_SUCCESS, PeerError, call, " failed: ", mpi_reason(code));
}

// Waits for something that is polled: at first by giving the core away, then with sleeps that grow, so that a
// rank that waits for a slow link leaves its core to those that compute.
class Backoff {
 public:
  void pause() {
    const auto waited = Clock::now() - start_;
    if (waited < std::chrono::microseconds(100)) {
      std::this_thread::yield();
    } else if (waited < std::chrono::milliseconds(5)) {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    } else if (waited < std::chrono::seconds(1)) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  Clock::time_point start_ = Clock::now();
};

// MPI from its start to its end. MPI can be started once in a process: who starts it ends it.
class MpiRuntime {
 public:
  MpiRuntime() {
    int started = 0;
    expect_mpi(MPI_Initialized(&started), "MPI_Initialized");
    if (started != 0) return;
    int level = MPI_THREAD_SINGLE;
    expect_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level), "MPI_Init_thread");
    owner_ = true;
    KUMIKO_EXPECTS(level >= MPI_THREAD_SERIALIZED, UsageError,
                   "this MPI allows calls from its first thread only; needed is one built with "
                   "MPI_THREAD_SERIALIZED, as Open MPI is");
  }

  // Ending MPI waits for all ranks. With an error on its way out this process ends without it, and mpirun
  // then ends the others.
  ~MpiRuntime() {
    if (owner_ && !failed_ && std::uncaught_exceptions() == exceptions_) MPI_Finalize();
  }
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  void set_failed() noexcept { failed_ = true; }
  bool unwinding() const noexcept { return std::uncaught_exceptions() != exceptions_; }

 private:
  bool owner_ = false;
  std::atomic<bool> failed_ = false;
  int exceptions_ = std::uncaught_exceptions();
};

class MpiChannel final : public PointToPoint {
 public:
  MpiChannel(MpiRuntime& runtime, double timeout_seconds)
      : runtime_(runtime), timeout_seconds_(timeout_seconds) {
    expect_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    expect_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
    expect_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    duplicate_world();
    expect_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  void cancel() noexcept { cancelled_ = true; }

  void exchange(int to, std::span<const std::byte> out, int from, std::span<std::byte> in) override {
    for (std::size_t offset = 0; offset < std::max(out.size(), in.size()); offset += kMessageBytes) {
      exchange_message(to, piece(out, offset), from, piece(in, offset));
    }
  }

  [[noreturn]] void abort(int exit_code) noexcept {
    std::fflush(nullptr);
    const std::unique_lock lock(mutex_,
                                std::chrono::seconds(1));  // a call that hangs must not keep us from ending
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  template <class Byte>
  static std::span<Byte> piece(std::span<Byte> bytes, std::size_t offset) {
    const std::size_t begin = std::min(offset, bytes.size());
    return bytes.subspan(begin, std::min(kMessageBytes, bytes.size() - begin));
  }

  // Of several communicators of one process each has its own messages. Never freed: that needs all ranks, and
  // MPI_Finalize does it.
  void duplicate_world() {
    MPI_Request request = MPI_REQUEST_NULL;
    expect_mpi(MPI_Comm_idup(MPI_COMM_WORLD, &comm_, &request), "MPI_Comm_idup");
    int done = 0;
    for (Backoff backoff;; backoff.pause()) {
      expect_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) return;
      if (backoff.seconds() < timeout_seconds_) continue;
      runtime_.set_failed();
      throw PeerError(
          concat("rank ", rank_, " waited ", timeout_seconds_,
                 " s for the other ranks to start; see their output, and "
                 "check that they reach each other (several interfaces: mpirun's --mca btl_tcp_if_include)"));
    }
  }

  void exchange_message(int to, std::span<const std::byte> out, int from, std::span<std::byte> in) {
    std::array<MPI_Request, 2> requests{MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    std::array<MPI_Status, 2> statuses{};
    const std::array<int, 2> peers{from, to};
    if (!in.empty()) {
      const std::lock_guard lock(mutex_);
      check(MPI_Irecv(in.data(), static_cast<int>(in.size()), MPI_BYTE, from, kTag, comm_, &requests[0]),
            from);
    }
    if (!out.empty()) {
      const std::lock_guard lock(mutex_);
      check(MPI_Isend(out.data(), static_cast<int>(out.size()), MPI_BYTE, to, kTag, comm_, &requests[1]), to);
    }
    std::array<bool, 2> done{in.empty(), out.empty()};
    for (Backoff backoff; !(done[0] && done[1]); backoff.pause()) {
      for (int i = 0; i < 2; ++i) {
        if (!done[i]) done[i] = test(requests[i], statuses[i], peers[i]);
      }
      if (done[0] && done[1]) break;
      if (cancelled_)
        throw PeerError(gone_message(done[0] ? to : from, "this rank is ending after an error"));
      if (backoff.seconds() > timeout_seconds_) fail(late_message(done[0] ? to : from, timeout_seconds_));
    }
    if (!in.empty()) expect_length(statuses[0], from, in.size());
  }

  bool test(MPI_Request& request, MPI_Status& status, int peer) {
    const std::lock_guard lock(mutex_);
    int done = 0;
    check(MPI_Test(&request, &done, &status), peer);
    return done != 0;
  }

  void expect_length(MPI_Status& status, int from, std::size_t needed) {
    int found = 0;
    {
      const std::lock_guard lock(mutex_);
      check(MPI_Get_count(&status, MPI_BYTE, &found), from);
    }
    if (static_cast<std::size_t>(found) != needed)
      fail(length_message(from, found, static_cast<std::int64_t>(needed)));
  }

  void check(int code, int peer) {
    if (code != MPI_SUCCESS) fail(gone_message(peer, mpi_reason(code)));
  }

  // No MPI call follows, so MPI does not touch the buffers of messages that are still open.
  [[noreturn]] void fail(const std::string& message) {
    runtime_.set_failed();
    throw PeerError(message);
  }

  MpiRuntime& runtime_;
  double timeout_seconds_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::atomic<bool> cancelled_ = false;
  std::timed_mutex mutex_;  // MPI_THREAD_SERIALIZED: one call at a time
};

struct MpiParts {
  explicit MpiParts(double timeout_seconds) : channel(runtime, timeout_seconds) {}
  MpiRuntime runtime;
  MpiChannel channel;
};

class MpiCommunicator final : private MpiParts, public QueuedCommunicator {
 public:
  explicit MpiCommunicator(const CommOptions& options)
      : MpiParts(options.timeout_seconds), QueuedCommunicator(channel) {}
  ~MpiCommunicator() override {
    if (runtime.unwinding()) channel.cancel();
  }
  [[noreturn]] void abort(int exit_code) noexcept override { channel.abort(exit_code); }
};

}  // namespace

std::unique_ptr<Communicator> make_mpi(const CommOptions& options) {
  return std::make_unique<MpiCommunicator>(options);
}

}  // namespace kumiko::dist
