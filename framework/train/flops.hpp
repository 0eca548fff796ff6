// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/ScalarType.h>

namespace kumiko {

// Floating-point operations a second that matrix products reach on this machine with the threads set, measured for about a
// third of a second, best of all tries: the denominator of the model FLOP utilisation on a CPU.
double measure_matmul_rate(c10::ScalarType dtype);

}  // namespace kumiko
