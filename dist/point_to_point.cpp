// SPDX-License-Identifier: Apache-2.0
#include "dist/point_to_point.hpp"

#include "framework/core/error.hpp"

namespace kumiko::dist {

std::string PointToPoint::late_message(int peer, double seconds) const {
  return concat("rank ", rank(), " waited ", seconds, " s for rank ", peer, " in ", collective_,
                ", without an answer; rank ", peer,
                " is stopped, far behind, or cut off: look at its last output and at the network (several "
                "interfaces: name one "
                "with mpirun's --mca btl_tcp_if_include). comm.timeout_seconds sets this limit");
}

std::string PointToPoint::gone_message(int peer, const std::string& reason) const {
  return concat("rank ", rank(), " lost rank ", peer, " in ", collective_, ": ", reason);
}

std::string PointToPoint::length_message(int peer, std::int64_t found_bytes,
                                         std::int64_t needed_bytes) const {
  return concat(
      "rank ", rank(), " expected ", needed_bytes, " bytes from rank ", peer, " in ", collective_,
      " but found ", found_bytes,
      "; the ranks run different collectives: start the same build with the same recipe everywhere");
}

}  // namespace kumiko::dist
