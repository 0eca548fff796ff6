// SPDX-License-Identifier: Apache-2.0
#include "dist/queued_communicator.hpp"

#include <algorithm>
#include <array>
#include <future>
#include <span>
#include <utility>

#include <ATen/ATen.h>

#include "dist/pipelined_broadcast.hpp"
#include "dist/tree_all_reduce.hpp"
#include "framework/core/error.hpp"

namespace kumiko::dist {
namespace {

class QueuedWork final : public Work {
 public:
  QueuedWork(std::future<void> done, at::Tensor tensor, at::Tensor host)
      : done_(std::move(done)), tensor_(std::move(tensor)), host_(std::move(host)) {}

  void wait() override {
    if (!done_.valid()) return;
    done_.get();
    if (!tensor_.is_same(host_)) tensor_.copy_(host_);
  }

 private:
  std::future<void> done_;
  at::Tensor tensor_;
  at::Tensor host_;  // tensor_ itself, or its copy on the CPU
};

at::Tensor on_host(const at::Tensor& tensor) { return tensor.is_cpu() ? tensor : tensor.cpu(); }

}  // namespace

void expect_collective_tensor(const at::Tensor& tensor, const char* collective) {
  constexpr std::array kTypes{at::kFloat, at::kDouble, at::kBFloat16, at::kHalf,
                              at::kLong,  at::kInt,    at::kByte};
  KUMIKO_EXPECTS(tensor.defined(), ShapeError, collective, ": found an undefined tensor");
  KUMIKO_EXPECTS(tensor.layout() == at::kStrided && tensor.is_contiguous(), ShapeError, collective,
                 ": found a tensor of sizes ", tensor.sizes(),
                 " that is not contiguous; pass tensor.contiguous()");
  KUMIKO_EXPECTS(std::find(kTypes.begin(), kTypes.end(), tensor.scalar_type()) != kTypes.end(), ShapeError,
                 collective, ": found a tensor of ", tensor.scalar_type(),
                 ", needed fp32, fp64, bf16, fp16, int64, int32 or uint8");
}

void expect_root(int root, int size) {
  KUMIKO_EXPECTS(root >= 0 && root < size, ShapeError, "broadcast: found root ", root,
                 ", needed a rank from 0 to ", size - 1);
}

std::string QueuedCommunicator::label(const char* collective, const at::Tensor& tensor) {
  return concat(collective, " ", ++count_, " (", tensor.numel(), " x ", tensor.scalar_type(), ")");
}

std::unique_ptr<Work> QueuedCommunicator::all_reduce(at::Tensor tensor, ReduceOp op, Wire wire) {
  expect_collective_tensor(tensor, "all_reduce");
  at::Tensor host = on_host(tensor);
  auto job = [this, host, op, wire, name = label("all_reduce", tensor)]() mutable {
    channel_.begin(std::move(name));
    tree_all_reduce(channel_, host, op, wire);
  };
  std::future<void> done = queue_.submit(std::move(job));
  return std::make_unique<QueuedWork>(std::move(done), std::move(tensor), std::move(host));
}

std::unique_ptr<Work> QueuedCommunicator::broadcast(at::Tensor tensor, int root) {
  expect_collective_tensor(tensor, "broadcast");
  expect_root(root, size());
  at::Tensor host = on_host(tensor);
  auto job = [this, host, root, name = label("broadcast", tensor)]() mutable {
    channel_.begin(std::move(name));
    pipelined_broadcast(channel_, {static_cast<std::byte*>(host.mutable_data_ptr()), host.nbytes()}, root);
  };
  std::future<void> done = queue_.submit(std::move(job));
  return std::make_unique<QueuedWork>(std::move(done), std::move(tensor), std::move(host));
}

void QueuedCommunicator::barrier() {
  auto job = [this, name = concat("barrier ", ++count_)]() mutable {
    channel_.begin(std::move(name));
    at::Tensor token = at::zeros({1}, at::kByte);
    tree_all_reduce(channel_, token, ReduceOp::max, Wire::native);
  };
  queue_.submit(std::move(job)).get();
}

}  // namespace kumiko::dist
