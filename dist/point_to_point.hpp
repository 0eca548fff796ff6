// SPDX-License-Identifier: Apache-2.0
// The seam under the collectives: bytes between two ranks. Threads of one process and MPI implement it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace kumiko::dist {

class PointToPoint {
 public:
  virtual ~PointToPoint() = default;
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;

  // Sends `out` to rank `to` and receives `in` from rank `from`, both at once; returns when `out` may be
  // overwritten and `in` is complete. An empty span is no message. Messages between two ranks keep their
  // order. Throws PeerError when the time limit passes, the peer is gone, or the message that arrives has
  // another length.
  virtual void exchange(int to, std::span<const std::byte> out, int from, std::span<std::byte> in) = 0;

  // Names the collective that the next exchanges belong to, for error messages.
  void begin(std::string collective) { collective_ = std::move(collective); }

 protected:
  std::string late_message(int peer, double seconds) const;
  std::string gone_message(int peer, const std::string& reason) const;
  std::string length_message(int peer, std::int64_t found_bytes, std::int64_t needed_bytes) const;

 private:
  std::string collective_ = "a collective";
};

}  // namespace kumiko::dist
