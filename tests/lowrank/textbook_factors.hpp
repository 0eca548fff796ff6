// SPDX-License-Identifier: Apache-2.0
// Training with W + s B A or B A by autograd in fp64 and AdamW written out, from the state a run begins with.
#pragma once

#include <cmath>
#include <map>
#include <string>

#include "lowrank/lora_linear.hpp"
#include "lowrank/low_rank_linear.hpp"
#include "tests/support/reference_llama.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko::test {

// Adam divides by |g| + eps: a gradient near eps gets its rounding magnified by what it is smaller than others, so that small
// products and an eps above fp32's noise keep a run and its oracle together.
constexpr const char* kTextbookOptimizer = "{weight_decay: 0.1, eps: 1.0e-5}";
constexpr double kTextbookLr = 0.003;

inline data::Batch textbook_batch(std::int64_t step) {
  return padded_batch({9, 4, 11, 7, 5, 12, 8, 6}, static_cast<std::uint64_t>(step) + 1);
}

// Steps of one batch each, at a constant rate.
inline RigOptions textbook_options(const std::string& method, const std::string& yaml) {
  return {.method = method, .method_yaml = yaml, .peak_lr = kTextbookLr, .optimizer_yaml = kTextbookOptimizer};
}

struct TextbookRig : Rig {
  explicit TextbookRig(const RigOptions& options) : Rig(options, [](std::int64_t step) { return Batches{textbook_batch(step)}; }) {}
};

struct TextbookFactors {
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-5, kWeightDecay = 0.1;
  struct Leaf {
    at::Tensor value, m, v;
    bool decays = false, factor = false;
    int steps = 0;
  };
  std::map<std::string, Leaf> leaves;   // by parameter
  Weights base;                         // by linear; empty where W = B A
  std::vector<std::string> linears;
  double scale = 1.0;

  // All matrices of `run` have factors.
  TextbookFactors(TinyRun& run, double factor_scale) : scale(factor_scale) {
    for (Parameter* p : run.model->parameters()) {
      const at::Tensor value = p->value.to(at::kDouble).clone();
      const bool factor = p->role == ParamRole::factor;
      leaves[p->name] = {value, at::zeros_like(value), at::zeros_like(value), factor || p->role == ParamRole::matrix, factor, 0};
    }
    for (Linear* linear : run.model->linears()) {
      linears.push_back(linear->spec().name);
      if (const auto* lora = dynamic_cast<lowrank::LoraLinear*>(linear)) {
        base[linear->spec().name] = lora->weight().dequantize(at::kFloat).to(at::kDouble).clone();
      }
    }
  }

  at::Tensor weight(const std::string& linear) const {
    const at::Tensor product = scale * at::matmul(leaves.at(linear + ".lora_B").value, leaves.at(linear + ".lora_A").value);
    return base.contains(linear) ? base.at(linear) + product : product;
  }

  // The mean loss before the update.
  double step(const data::Batch& batch, double lr) {
    Weights weights;
    for (auto& [name, leaf] : leaves) weights[name] = leaf.value.set_requires_grad(true);
    for (const auto& linear : linears) weights[linear] = weight(linear);
    const at::Tensor loss =
        reference_loss_sum(tiny_options(), weights, batch.tokens, batch.targets) / static_cast<double>(batch.target_count);
    loss.backward();
    for (auto& [name, leaf] : leaves) {
      const at::Tensor g = leaf.value.grad();
      ++leaf.steps;
      leaf.m = kBeta1 * leaf.m + (1.0 - kBeta1) * g;
      leaf.v = kBeta2 * leaf.v + (1.0 - kBeta2) * g * g;
      const at::Tensor m = leaf.m / (1.0 - std::pow(kBeta1, leaf.steps));
      const at::Tensor v = leaf.v / (1.0 - std::pow(kBeta2, leaf.steps));
      const double kept = leaf.decays ? 1.0 - lr * kWeightDecay : 1.0;
      leaf.value = kept * leaf.value.detach() - lr * m / (v.sqrt() + kEps);
    }
    return loss.item<double>();
  }

  // |a - b| / |b| over all matrices.
  double distance(TinyRun& run) const {
    double error = 0.0, size = 0.0;
    for (Linear* linear : run.model->linears()) {
      const at::Tensor expected = weight(linear->spec().name).detach();
      error += (linear->effective_weight().to(at::kDouble) - expected).square().sum().item<double>();
      size += expected.square().sum().item<double>();
    }
    return std::sqrt(error / size);
  }
};

}  // namespace kumiko::test
