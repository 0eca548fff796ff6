// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "dist/communicator.hpp"
#include "framework/core/state.hpp"

namespace kumiko {

// Reads on rank 0 and gives every rank the value. All ranks call the same functions with the same names in
// the same order, has() included. A CheckpointError of rank 0 is thrown on all ranks with its message.
class BroadcastReader final : public StateReader {
 public:
  // `source` is the reader of rank 0 and null on the others. Both outlive this object.
  BroadcastReader(const StateReader* source, dist::Communicator& comm);

  bool has(std::string_view name) const override;
  at::Tensor tensor(std::string_view name) const override;
  std::int64_t integer(std::string_view name) const override;
  double real(std::string_view name) const override;
  std::string text(std::string_view name) const override;

 private:
  const StateReader* source_;
  dist::Communicator& comm_;
};

// The same text on every rank; for a recipe or a message of rank 0. Its content on other ranks is ignored.
std::string broadcast_text(const std::string& text, dist::Communicator& comm);

}  // namespace kumiko
