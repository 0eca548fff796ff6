// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace kumiko::dist {

// Runs jobs one after another in a thread of its own, so that a collective proceeds while its caller
// computes. Ranks that submit in the same order communicate in the same order. After a job has failed every
// later one fails with the same error.
class CollectiveQueue {
 public:
  CollectiveQueue();
  ~CollectiveQueue();  // finishes what was submitted
  CollectiveQueue(const CollectiveQueue&) = delete;
  CollectiveQueue& operator=(const CollectiveQueue&) = delete;

  std::future<void> submit(std::function<void()> job);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<void()>> tasks_;
  bool closing_ = false;
  std::exception_ptr failure_;  // touched by the thread only
  std::thread thread_;
};

}  // namespace kumiko::dist
