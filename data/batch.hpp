// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kumiko {
class StateReader;
class StateWriter;
}  // namespace kumiko

namespace kumiko::data {

inline constexpr std::int64_t kNoTarget = -100;

// One micro-batch on the CPU.
struct Batch {
  at::Tensor tokens;              // [B, T] int64; behind the end of a sample: EOS
  at::Tensor targets;             // [B, T] int64, the token that follows each; kNoTarget: no loss
  std::int64_t target_count = 0;  // targets that are not kNoTarget
};

// Where training takes its batches from.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  // This rank's micro-batches of the next step, in order. Throws DataError.
  virtual std::vector<Batch> next_step() = 0;
  // The position: what next_step() will give. Restoring it gives the very same batches.
  virtual void save(StateWriter& out) const = 0;
  virtual void load(
      const StateReader& in) = 0;  // throws CheckpointError when the data or the order has changed
};

}  // namespace kumiko::data
