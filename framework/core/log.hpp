// SPDX-License-Identifier: Apache-2.0
// Messages for the person at the terminal. Only rank 0 prints; warnings of other ranks come through with their rank.
#pragma once

#include <string>

namespace kumiko::log {

// Called once after the communicator is made. Before that the process is rank 0 of 1.
void set_rank(int rank, int size);

void info(const std::string& message);      // rank 0 only
void warning(const std::string& message);   // every rank; names the rank when there are several
void error(const std::string& message);     // every rank; names the rank when there are several

}  // namespace kumiko::log
