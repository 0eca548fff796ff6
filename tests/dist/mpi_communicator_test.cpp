// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "tests/dist/communicator_suite.hpp"

namespace kumiko::dist {
namespace {

Kind mpi() {
  return {"mpi", [](const auto& body) { body(*make_mpi({.timeout_seconds = 60})); }};
}

INSTANTIATE_TEST_SUITE_P(Mpi, Communicators, testing::Values(mpi()),
                         [](const auto& info) { return info.param.name; });

TEST(MpiCommunicator, TimesOutOnARankThatDoesNotCome) {
  const auto patient = make_mpi({.timeout_seconds = 60});
  const auto hasty = make_mpi({.timeout_seconds = 0.3});
  ASSERT_GE(patient->size(), 2);
  if (patient->rank() == 0) {
    try {
      hasty->all_reduce(at::ones({10}), ReduceOp::sum)->wait();
      ADD_FAILURE() << "no error";
    } catch (const PeerError& error) {
      EXPECT_EQ(error.code(), ExitCode::peer);
      EXPECT_THAT(error.what(),
                  testing::StartsWith("rank 0 waited 0.3 s for rank 1 in all_reduce 1 (10 x Float)"));
    }
    EXPECT_THROW(hasty->barrier(), PeerError);
  }
  patient->barrier();
}

TEST(MpiCommunicator, NoticesRanksThatRunDifferentCollectives) {
  const auto patient = make_mpi({.timeout_seconds = 60});
  const auto comm = make_mpi({.timeout_seconds = 1});
  try {
    comm->all_reduce(at::ones({1 + comm->rank()}), ReduceOp::sum)->wait();
    ADD_FAILURE() << "no error";
  } catch (const PeerError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("in all_reduce 1"));
  }
  patient->barrier();
}

}  // namespace
}  // namespace kumiko::dist
