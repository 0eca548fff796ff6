// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstdlib>

#include "dist/communicator.hpp"

namespace kumiko::dist {

bool launched_by_mpi() noexcept {
  constexpr std::array kSizeVariables{"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};  // Open MPI; MPICH and Intel MPI
  for (const char* name : kSizeVariables) {
    const char* size = std::getenv(name);
    if (size != nullptr && std::atoi(size) > 1) return true;
  }
  return false;
}

}  // namespace kumiko::dist
