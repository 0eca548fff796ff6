// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "dist/communicator.hpp"

namespace kumiko::dist {

// The text of every rank, by rank, on all ranks. Collective.
std::vector<std::string> gather_texts(Communicator& comm, const std::string& text);

using Facts = std::vector<std::pair<std::string, std::string>>;  // name, value

// Throws UsageError on every rank, with one message, unless all ranks have the facts of rank 0. The message
// has the first fact that differs, the ranks and their values; of values with several lines the first line
// that differs. Collective.
void require_agreement(Communicator& comm, const Facts& facts);

}  // namespace kumiko::dist
