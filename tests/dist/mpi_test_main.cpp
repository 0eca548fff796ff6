// SPDX-License-Identifier: Apache-2.0
// main() of tests that mpirun starts. Rank 0 prints GoogleTest's report, the others print their failures
// only; every rank fails when one does.
#include <cstdio>
#include <memory>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "dist/communicator.hpp"

namespace {

class FailurePrinter final : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const char* file = result.file_name() == nullptr ? "unknown file" : result.file_name();
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank_, file, result.line_number(), result.message());
  }

 private:
  int rank_;
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const auto comm =
      kumiko::dist::make_mpi({.timeout_seconds = 120});  // MPI ends with this one, after the tests
  if (comm->rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    const std::unique_ptr<testing::TestEventListener> silenced(
        listeners.Release(listeners.default_result_printer()));
    listeners.Append(std::make_unique<FailurePrinter>(comm->rank()).release());
  }
  at::Tensor failed = at::zeros({1}, at::kInt);
  failed[0] = RUN_ALL_TESTS() == 0 ? 0 : 1;
  comm->all_reduce(failed, kumiko::dist::ReduceOp::max)->wait();
  return failed.item<int>();
}
