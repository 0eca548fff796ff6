// SPDX-License-Identifier: Apache-2.0
#include "quant/int4_codec.hpp"

#include "quant/codebook4_codec.hpp"

namespace kumiko::quant {

Codec int4_codec() { return codebook4_codec<kInt4Codebook>(CodecKind::int4, "int4"); }

}  // namespace kumiko::quant
