// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace kumiko {

std::string kumiko_version();   // "0.1.0"
std::string torch_version();

// SHA-256 over the files of the running binary and of Kumiko's libraries, hex: equal on two computers that run the same build.
std::string build_digest();

}  // namespace kumiko
