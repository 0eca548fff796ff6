// SPDX-License-Identifier: Apache-2.0
#include "dist/thread_group.hpp"

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "dist/queued_communicator.hpp"
#include "framework/core/error.hpp"

namespace kumiko::dist {
namespace {

using Bytes = std::vector<std::byte>;

// One mailbox for each ordered pair of ranks.
class Mailboxes {
 public:
  enum class Outcome { received, late, sender_gone };

  explicit Mailboxes(int size)
      : size_(size), boxes_(static_cast<std::size_t>(size) * size), gone_(size, false) {}

  int size() const noexcept { return size_; }

  void post(int from, int to, std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    box(from, to).emplace_back(bytes.begin(), bytes.end());
    changed_.notify_all();
  }

  Outcome take(int from, int to, double timeout_seconds, Bytes& bytes) {
    std::unique_lock lock(mutex_);
    auto& waiting = box(from, to);
    const auto limit = std::chrono::duration<double>(timeout_seconds);
    if (!changed_.wait_for(lock, limit, [&] { return !waiting.empty() || gone_[from] || failed_; }))
      return Outcome::late;
    if (waiting.empty()) return Outcome::sender_gone;
    bytes = std::move(waiting.front());
    waiting.pop_front();
    return Outcome::received;
  }

  void leave(int rank) {
    const std::lock_guard lock(mutex_);
    gone_[rank] = true;
    changed_.notify_all();
  }

  // The first error counts: those of other ranks follow from it.
  void fail(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
    failed_ = true;
    changed_.notify_all();
  }

  std::exception_ptr error() const { return error_; }

 private:
  std::deque<Bytes>& box(int from, int to) { return boxes_[static_cast<std::size_t>(from) * size_ + to]; }

  int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<Bytes>> boxes_;
  std::vector<bool> gone_;
  bool failed_ = false;
  std::exception_ptr error_;
};

class ThreadChannel final : public PointToPoint {
 public:
  ThreadChannel(Mailboxes& mailboxes, int rank, double timeout_seconds)
      : mailboxes_(mailboxes), rank_(rank), timeout_seconds_(timeout_seconds) {}
  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return mailboxes_.size(); }

  void exchange(int to, std::span<const std::byte> out, int from, std::span<std::byte> in) override {
    if (!out.empty()) mailboxes_.post(rank_, to, out);
    if (in.empty()) return;
    Bytes bytes;
    switch (mailboxes_.take(from, rank_, timeout_seconds_, bytes)) {
      case Mailboxes::Outcome::late:
        throw PeerError(late_message(from, timeout_seconds_));
      case Mailboxes::Outcome::sender_gone:
        throw PeerError(gone_message(from, "it has ended, or a rank has failed"));
      case Mailboxes::Outcome::received:
        break;
    }
    KUMIKO_EXPECTS(
        bytes.size() == in.size(), PeerError,
        length_message(from, static_cast<std::int64_t>(bytes.size()), static_cast<std::int64_t>(in.size())));
    std::copy(bytes.begin(), bytes.end(), in.begin());
  }

 private:
  Mailboxes& mailboxes_;
  int rank_;
  double timeout_seconds_;
};

class ThreadCommunicator final : public QueuedCommunicator {
 public:
  using QueuedCommunicator::QueuedCommunicator;
  [[noreturn]] void abort(int exit_code) noexcept override {
    std::fflush(nullptr);
    std::_Exit(exit_code);
  }
};

void run_rank(Mailboxes& mailboxes, int rank, double timeout_seconds,
              const std::function<void(Communicator&)>& body) {
  {
    ThreadChannel channel(mailboxes, rank, timeout_seconds);
    ThreadCommunicator communicator(channel);
    try {
      body(communicator);
    } catch (...) {
      mailboxes.fail(std::current_exception());
    }
  }
  mailboxes.leave(rank);
}

}  // namespace

void run_thread_group(int size, const CommOptions& options, const std::function<void(Communicator&)>& body) {
  KUMIKO_EXPECTS(size >= 1, UsageError, "run_thread_group: found ", size, " ranks, needed at least 1");
  Mailboxes mailboxes(size);
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] { run_rank(mailboxes, rank, options.timeout_seconds, body); });
    }
  }
  if (mailboxes.error()) std::rethrow_exception(mailboxes.error());
}

void run_thread_group(int size, const std::function<void(Communicator&)>& body) {
  run_thread_group(size, CommOptions{}, body);
}

}  // namespace kumiko::dist
