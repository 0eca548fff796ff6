// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string_view>
#include <utility>

#include "dist/communicator.hpp"
#include "framework/core/config.hpp"

namespace kumiko::dist {

CommOptions CommOptions::parse(const ConfigNode& node) {
  using Words = std::string_view;
  static constexpr std::array<std::pair<Words, Backend>, 3> kBackends{
      {{"auto", Backend::automatic}, {"mpi", Backend::mpi}, {"nccl", Backend::nccl}}};
  static constexpr std::array<std::pair<Words, Wire>, 3> kWires{
      {{"auto", Wire::native}, {"fp32", Wire::fp32}, {"bf16", Wire::bf16}}};
  CommOptions options;
  options.backend = node.choice("backend", options.backend, kBackends);
  options.wire = node.choice("wire", options.wire, kWires);
  options.timeout_seconds = node.real("timeout_seconds", options.timeout_seconds, {.min = 0.1, .max = 1e6});
  if (options.backend == Backend::nccl)
    node.fail("backend", "found nccl, but this Kumiko was built without NCCL; needed auto or mpi");
  return options;
}

}  // namespace kumiko::dist
