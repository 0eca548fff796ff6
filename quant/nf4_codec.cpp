// SPDX-License-Identifier: Apache-2.0
#include "quant/nf4_codec.hpp"

#include "quant/codebook4_codec.hpp"

namespace kumiko::quant {

Codec nf4_codec() { return codebook4_codec<kNf4Codebook>(CodecKind::nf4, "nf4"); }

}  // namespace kumiko::quant
