// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quant/codec.hpp"

namespace kumiko::quant {

// Signed 8-bit integers, symmetric: k / 127 for k from -127 to 127, with one absmax for each block.
Codec int8_codec();

}  // namespace kumiko::quant
