// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

namespace kumiko {

// Bytes by part, for one rank.
struct MemoryPlan {
  std::int64_t weights = 0;        // codes of quantized matrices, or dense matrices, embedding, head, norms
  std::int64_t scales = 0;         // of quantized matrices
  std::int64_t basis = 0;
  std::int64_t factor = 0;
  std::int64_t moments = 0;
  std::int64_t gradients = 0;
  std::int64_t largest_gradient = 0;   // of one layer's parameters; a part of `gradients`
  std::int64_t activations = 0;    // peak of an ordinary step, with logits
  std::int64_t sketches = 0;       // peak of a probe step's groups
  std::int64_t scratch = 0;        // one layer's dense work space

  void add_gradient(std::int64_t bytes) {
    gradients += bytes;
    largest_gradient = std::max(largest_gradient, bytes);
  }
  std::int64_t states() const { return weights + scales + basis + factor + moments; }
  std::int64_t total() const { return states() + gradients + activations + sketches + scratch; }
};

}  // namespace kumiko
