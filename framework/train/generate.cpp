// SPDX-License-Identifier: Apache-2.0
#include "framework/train/generate.hpp"

#include <algorithm>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"

namespace kumiko {

std::int32_t sample_token(const at::Tensor& logits, const SampleOptions& options, double uniform) {
  if (options.temperature <= 0.0) return static_cast<std::int32_t>(logits.argmax().item<std::int64_t>());
  const std::int64_t width = options.top_k > 0 ? std::min(options.top_k, logits.numel()) : logits.numel();
  auto [values, indices] = logits.topk(width);
  const at::Tensor mass = (values.to(at::kDouble) / options.temperature).softmax(0).cumsum(0);
  const auto* cumulative = mass.data_ptr<double>();
  // Tokens whose predecessors already hold top_p of the mass are out.
  std::int64_t kept = 1;
  while (kept < width && cumulative[kept - 1] < options.top_p) ++kept;
  const double target = uniform * cumulative[kept - 1];
  const std::int64_t pick = std::upper_bound(cumulative, cumulative + kept - 1, target) - cumulative;
  return static_cast<std::int32_t>(indices[pick].item<std::int64_t>());
}

std::vector<std::int32_t> generate(const LanguageModel& model, std::vector<std::int32_t> prompt, std::int32_t eos,
                                   const SampleOptions& options, const std::function<void(std::int32_t)>& on_token) {
  KUMIKO_EXPECTS(!prompt.empty(), UsageError, "the prompt is empty");
  const std::int64_t positions = model.options().max_sequence_length;
  KUMIKO_EXPECTS(options.max_tokens < positions, UsageError, "max_tokens ", options.max_tokens, " leaves no room for a prompt: the model has ",
                 positions, " positions");
  const auto room = static_cast<std::size_t>(positions - options.max_tokens);
  if (prompt.size() > room) prompt.erase(prompt.begin(), prompt.end() - static_cast<std::ptrdiff_t>(room));
  KvCache cache;
  at::Tensor next = at::tensor(std::vector<std::int64_t>(prompt.begin(), prompt.end()), at::kLong).unsqueeze(0);
  std::vector<std::int32_t> result;
  for (std::int64_t i = 0; i < options.max_tokens; ++i) {
    at::Tensor logits = model.next_logits(next, cache).squeeze(0).cpu();
    if (options.vocab_limit > 0 && options.vocab_limit < logits.numel()) logits = logits.narrow(0, 0, options.vocab_limit);
    const double uniform = static_cast<double>(mix64(stream_seed(options.seed, "generate") + static_cast<std::uint64_t>(i)) >> 11) * 0x1p-53;
    const std::int32_t token = sample_token(logits, options, uniform);
    if (token == eos) break;
    result.push_back(token);
    if (on_token) on_token(token);
    next = at::full({1, 1}, token, at::kLong);
  }
  return result;
}

}  // namespace kumiko
