// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "framework/model/language_model.hpp"

namespace kumiko {

struct SampleOptions {
  std::int64_t max_tokens = 128;    // new ones
  double temperature = 0.8;         // 0: the likeliest token each time
  std::int64_t top_k = 50;          // 0: all
  double top_p = 1.0;               // smallest set of likeliest tokens with this mass
  std::uint64_t seed = 42;
  std::int64_t vocab_limit = 0;     // ids from here on are never drawn; 0: none
};

// Continues `prompt` (not empty; its last max_sequence_length - max_tokens tokens are used) token by token until `eos` or the
// limit; `on_token` hears each new token. Depends on the seed and the model only.
std::vector<std::int32_t> generate(const LanguageModel& model, std::vector<std::int32_t> prompt, std::int32_t eos,
                                   const SampleOptions& options, const std::function<void(std::int32_t)>& on_token = {});

// One draw from logits [V] fp32 with `uniform` in [0, 1).
std::int32_t sample_token(const at::Tensor& logits, const SampleOptions& options, double uniform);

}  // namespace kumiko
