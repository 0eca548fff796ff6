// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quant/codec.hpp"

namespace kumiko::quant {

// 4-bit NormalFloat with one absmax for each block.
Codec nf4_codec();

}  // namespace kumiko::quant
