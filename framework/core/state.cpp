// SPDX-License-Identifier: Apache-2.0
#include "framework/core/state.hpp"

#include "framework/core/error.hpp"

namespace kumiko {

void StateReader::read_into(std::string_view name, at::Tensor& destination) const {
  const at::Tensor stored = tensor(name);
  KUMIKO_EXPECTS(stored.sizes() == destination.sizes() && stored.scalar_type() == destination.scalar_type(),
                 CheckpointError, "'", name, "' is ", stored.scalar_type(), stored.sizes(), " in the checkpoint, ",
                 destination.scalar_type(), destination.sizes(), " in this run");
  destination.copy_(stored);
}

}  // namespace kumiko
