// SPDX-License-Identifier: Apache-2.0
#include "quant/fp4_codec.hpp"

#include "quant/codebook4_codec.hpp"

namespace kumiko::quant {

Codec fp4_codec() { return codebook4_codec<kFp4Codebook>(CodecKind::fp4, "fp4"); }

}  // namespace kumiko::quant
