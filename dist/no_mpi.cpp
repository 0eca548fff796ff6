// SPDX-License-Identifier: Apache-2.0
#include "dist/communicator.hpp"
#include "framework/core/error.hpp"

namespace kumiko::dist {

std::unique_ptr<Communicator> make_mpi(const CommOptions&) {
  throw NotBuiltError(
      "make_mpi: built without MPI; install Open MPI (libopenmpi-dev) and build with -DKUMIKO_WITH_MPI=ON");
}

}  // namespace kumiko::dist
