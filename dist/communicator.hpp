// SPDX-License-Identifier: Apache-2.0
// Ranks and what they say to each other. Five operations; implementations: solo, threads of one process, MPI, NCCL.
#pragma once

#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>

namespace kumiko {
class ConfigNode;
}

namespace kumiko::dist {

enum class ReduceOp { sum, max };

// What is sent for a floating gradient. `native` is its own dtype; sums are formed in fp32 in any case.
enum class Wire { native, fp32, bf16 };

enum class Backend { automatic, mpi, nccl };

struct CommOptions {
  Backend backend = Backend::automatic;
  Wire wire = Wire::native;
  double timeout_seconds = 600.0;   // a wait beyond it throws PeerError

  static CommOptions parse(const ConfigNode& node);   // the recipe's block `comm`
};

// A collective in flight. Keeps its tensor alive until wait() returns.
class Work {
 public:
  virtual ~Work() = default;
  virtual void wait() = 0;   // throws PeerError after the communicator's timeout or when a peer is gone
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  // In place, contiguous tensors of fp32, fp64, bf16, fp16, int64, int32, uint8. With a power of two of ranks the sum is that of the
  // fixed binary tree over ranks ((0+1)+(2+3))+..., so it equals a sum formed in that order in one process, bit for bit.
  [[nodiscard]] virtual std::unique_ptr<Work> all_reduce(at::Tensor tensor, ReduceOp op, Wire wire = Wire::native) = 0;
  [[nodiscard]] virtual std::unique_ptr<Work> broadcast(at::Tensor tensor, int root) = 0;
  virtual void barrier() = 0;
  // Ends all ranks of the job with this exit code, at once; for errors that only one rank has seen.
  [[noreturn]] virtual void abort(int exit_code) noexcept = 0;
};

std::unique_ptr<Communicator> make_solo();
std::unique_ptr<Communicator> make_mpi(const CommOptions& options);    // no_mpi.cpp throws NotBuiltError
bool launched_by_mpi() noexcept;                                       // this process is one of several ranks of mpirun
// Runs body(communicator) in `size` threads of this process and rethrows the first error: for tests and benchmarks.
void run_thread_group(int size, const std::function<void(Communicator&)>& body);

}  // namespace kumiko::dist
