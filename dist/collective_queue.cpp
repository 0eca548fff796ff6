// SPDX-License-Identifier: Apache-2.0
#include "dist/collective_queue.hpp"

#include <utility>

namespace kumiko::dist {

CollectiveQueue::CollectiveQueue() : thread_([this] { run(); }) {}

CollectiveQueue::~CollectiveQueue() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::future<void> CollectiveQueue::submit(std::function<void()> job) {
  std::packaged_task<void()> task([this, job = std::move(job)] {
    if (failure_) std::rethrow_exception(failure_);
    try {
      job();
    } catch (...) {
      failure_ = std::current_exception();
      throw;
    }
  });
  std::future<void> done = task.get_future();
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_one();
  return done;
}

void CollectiveQueue::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closing_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    std::packaged_task<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    task = {};  // releases the job's tensor before the next wait
    lock.lock();
  }
}

}  // namespace kumiko::dist
