// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "dist/communicator.hpp"

namespace kumiko::dist {

// run_thread_group of communicator.hpp with another time limit. A rank that throws makes the others throw
// PeerError; the error of the first is rethrown. A rank that returns while another still waits for it makes
// that one throw PeerError.
void run_thread_group(int size, const CommOptions& options, const std::function<void(Communicator&)>& body);

}  // namespace kumiko::dist
