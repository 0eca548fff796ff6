// SPDX-License-Identifier: Apache-2.0
#include "quant/int8_state_kernels.hpp"

#include <algorithm>
#include <vector>

#include "quant/dynamic_search.hpp"
#include "quant/reference/blocks.hpp"

namespace kumiko::quant::reference {

void state_encode(Int8Map map, const float* values, std::int64_t numel, StateBlocks out) {
  const DynamicSearch& search = dynamic_search(map);
  for_each_normalised(values, numel, Int8State::kBlock, out.absmax,
                      [&](std::int64_t i, float x) { out.codes[i] = nearest_code(search, x); });
}

void state_decode(Int8Map map, StateBlocks state, std::int64_t numel, float* out) {
  const DynamicSearch& search = dynamic_search(map);
  for (std::int64_t i = 0; i < numel; ++i)
    out[i] = search.map[state.codes[i]] * state.absmax[i / Int8State::kBlock];
}

void adam8bit(const AdamFactors& f, float* value, const float* grad, std::int64_t numel, StateBlocks first,
              StateBlocks second) {
  std::vector<float> m(static_cast<std::size_t>(numel));
  std::vector<float> v(static_cast<std::size_t>(numel));
  state_decode(Int8Map::with_sign, first, numel, m.data());
  state_decode(Int8Map::without_sign, second, numel, v.data());
  for (std::int64_t i = 0; i < numel; ++i) {
    const float g = grad[i];
    m[i] = std::fma(f.rest1, g, m[i] * f.beta1);
    v[i] = std::fma(f.rest2 * g, g, v[i] * f.beta2);
    const float divisor = std::sqrt(v[i]) / f.root_correction2 + f.eps;
    value[i] = value[i] * f.decay + (f.rate * m[i]) / divisor;
  }
  state_encode(Int8Map::with_sign, m.data(), numel, first);
  state_encode(Int8Map::without_sign, v.data(), numel, second);
}

}  // namespace kumiko::quant::reference
