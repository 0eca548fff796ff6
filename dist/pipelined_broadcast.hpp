// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

#include "dist/point_to_point.hpp"

namespace kumiko::dist {

// Copies the root's bytes to all ranks: small ones down a binomial tree, larger ones in chunks along the
// chain root, root+1, ..., so that every link carries the bytes once, at the same time.
void pipelined_broadcast(PointToPoint& channel, std::span<std::byte> bytes, int root);

}  // namespace kumiko::dist
