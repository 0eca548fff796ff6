// SPDX-License-Identifier: Apache-2.0
#include "framework/train/memory_plan.hpp"

#include <algorithm>
#include <array>

#include <c10/core/ScalarType.h>

#include "framework/core/error.hpp"
#include "framework/core/format.hpp"
#include "framework/model/cross_entropy.hpp"

namespace kumiko {
namespace {

// What a block keeps for the backward pass, a row (token), in elements of the compute dtype and in fp32.
std::int64_t saved_bytes_per_row(const ModelOptions& model, Recompute recompute, std::int64_t element) {
  const std::int64_t d = model.hidden_size;
  const std::int64_t kv = model.n_kv_heads * model.head_dim();
  const std::int64_t m = model.intermediate_size;
  const std::int64_t input = d * element;
  const std::int64_t attention = (2 * d + 2 * kv) * element + 4 * model.n_heads + 4;   // q, out, k, v; logsumexp, rstd
  const std::int64_t mlp = 2 * m * element + 4;
  const std::int64_t between = d * element;                                            // x2
  const std::int64_t outputs = (2 * d + m) * element;                                  // h1, h2, SwiGLU
  switch (recompute) {
    case Recompute::none: return input + attention + between + mlp + outputs;
    case Recompute::norm_swiglu: return input + attention + between + mlp;
    case Recompute::attention: return input + between + mlp + (d + m) * element;
    case Recompute::mlp: return input + attention + between + d * element;
    case Recompute::block: return input;
  }
  return 0;
}

}  // namespace

MemoryPlan plan_memory(const ModelOptions& model, const Method& method, const TrainOptions& train, std::int64_t micro_batch,
                       std::int64_t sequence_length, int ranks) {
  MemoryPlan plan;
  method.plan(model, plan);
  const std::int64_t element = static_cast<std::int64_t>(c10::elementSize(train.compute_dtype()));
  const std::int64_t param = static_cast<std::int64_t>(c10::elementSize(train.param_dtype));
  const std::int64_t largest_matrix = plan.largest_gradient;
  const auto add_dense = [&](const char* name, ParamRole role, std::vector<std::int64_t> sizes, std::int64_t count) {
    const std::int64_t numel = c10::multiply_integers(sizes);
    plan.weights += count * numel * param;
    RuleSpec spec{name, role, std::move(sizes), at::kCPU};
    spec.is_last_layer = role == ParamRole::head || (role == ParamRole::embedding && model.tie_embeddings);
    plan.moments += count * method.rule_nbytes(spec);
    for (std::int64_t i = 0; i < count; ++i) plan.add_gradient(4 * numel);
  };
  add_dense("model.embed_tokens.weight", ParamRole::embedding, {model.vocab_size, model.hidden_size}, 1);
  if (!model.tie_embeddings) add_dense("lm_head.weight", ParamRole::head, {model.vocab_size, model.hidden_size}, 1);
  add_dense("model.norm.weight", ParamRole::norm, {model.hidden_size}, 2 * model.n_layers + 1);

  if (train.per_layer_updates && micro_batch * ranks == train.global_batch_size) {
    // A tied table's gradient stays from the head to the embedding, beside one other.
    plan.gradients = model.tie_embeddings ? largest_matrix + 4 * model.vocab_size * model.hidden_size : plan.largest_gradient;
  }

  const std::int64_t rows = micro_batch * sequence_length;
  const std::int64_t kept = rows * model.n_layers * saved_bytes_per_row(model, train.recompute, element);
  // Beside what is kept: the head (a chunk of logits in fp32; below fp32 also in the compute dtype, and the cast table, its
  // gradient and that one's fp32 copy) or one block's backward pass (gradients of its widest activations, work space of the
  // norms, below fp32 with copies, what a recompute makes again).
  const bool low = element < 4;
  const std::int64_t table = model.vocab_size * model.hidden_size;
  const std::int64_t chunk = std::min(rows, head_chunk_rows(model.vocab_size));
  const std::int64_t head = chunk * model.vocab_size * (4 + (low ? element : 0)) + table * (element < param ? element : 0) +
                            table * (low ? element + 4 : 0) + rows * model.hidden_size * 2 * element;
  const std::int64_t again = saved_bytes_per_row(model, Recompute::none, element) - saved_bytes_per_row(model, train.recompute, element);
  const std::int64_t block = rows * (model.intermediate_size * 4 * element + model.hidden_size * ((low ? 16 : 8) + 4 * element) + again);
  plan.activations = kept + std::max(head, block);
  return plan;
}

std::int64_t full_rank_state_bytes(const ModelOptions& model, at::ScalarType param_dtype) {
  return model.total_parameters() * (static_cast<std::int64_t>(c10::elementSize(param_dtype)) + 8);
}

std::string describe(const MemoryPlan& plan) {
  const std::array<std::pair<const char*, std::int64_t>, 10> rows = {{{"weights", plan.weights},
                                                                      {"scales", plan.scales},
                                                                      {"basis", plan.basis},
                                                                      {"factor", plan.factor},
                                                                      {"moments", plan.moments},
                                                                      {"gradients", plan.gradients},
                                                                      {"activations", plan.activations},
                                                                      {"sketches", plan.sketches},
                                                                      {"scratch", plan.scratch},
                                                                      {"total", plan.total()}}};
  std::string text = "memory plan, one rank\n";
  for (const auto& [name, bytes] : rows) {
    const std::string amount = format_bytes(bytes);
    text += concat("  ", name, std::string(14 - std::string(name).size(), ' '), std::string(12 - std::min<std::size_t>(12, amount.size()), ' '),
                   amount, "\n");
  }
  return text;
}

}  // namespace kumiko
