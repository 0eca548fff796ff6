// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dist/collective_queue.hpp"
#include "dist/communicator.hpp"
#include "dist/point_to_point.hpp"

namespace kumiko::dist {

// Throws ShapeError unless `tensor` is one that a collective takes: defined, contiguous, of a dtype named in
// communicator.hpp.
void expect_collective_tensor(const at::Tensor& tensor, const char* collective);
// Throws ShapeError unless `root` is one of `size` ranks.
void expect_root(int root, int size);

// The collectives over a channel, in a thread of their own. Tensors of another device are staged through the
// CPU.
class QueuedCommunicator : public Communicator {
 public:
  explicit QueuedCommunicator(PointToPoint& channel) : channel_(channel) {}
  int rank() const noexcept override { return channel_.rank(); }
  int size() const noexcept override { return channel_.size(); }
  std::unique_ptr<Work> all_reduce(at::Tensor tensor, ReduceOp op, Wire wire) override;
  std::unique_ptr<Work> broadcast(at::Tensor tensor, int root) override;
  void barrier() override;

 private:
  std::string label(const char* collective, const at::Tensor& tensor);

  PointToPoint& channel_;
  std::int64_t count_ = 0;  // collectives so far, for messages
  CollectiveQueue queue_;
};

}  // namespace kumiko::dist
