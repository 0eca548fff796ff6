// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "lowrank/lora_linear.hpp"
#include "lowrank/methods/basic_method.hpp"

namespace kumiko::lowrank {

struct LoraOptions {
  std::int64_t rank = 0;       // auto: a quarter of the model's hidden size
  double alpha = 32.0;         // s = alpha / rank; 32 is that of GaLore's LoRA and ReLoRA baselines (arXiv 2403.03507, 5.1)
  Targets targets;
  StorageOptions storage;      // of the frozen weights
  at::ScalarType factor_dtype = at::kFloat;

  // Keys rank, alpha, targets, quantization, factor; without the keys of `quantization` it is `defaults`.
  static LoraOptions parse(const ConfigNode& node, const StorageOptions::Defaults& defaults, std::int64_t hidden_size);
};

// LoRA and QLoRA as pretraining baselines: the targeted matrices stay as they were drawn, perhaps quantized, each with a trained
// product of two factors; all the rest trains. Without dropout.
class LoraMethod : public BasicMethod {
 public:
  // `weights`: the codec where the recipe names none.
  LoraMethod(const MethodContext& context, std::string name, std::string_view weights);

  std::string_view name() const noexcept override { return name_; }
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override;
  void validate(const ModelOptions& model) const override;
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;

 protected:
  LoraMethod(const MethodContext& context, std::string name, LoraOptions options);
  // Of the first factor after the `restart`-th restart; 0: the initial one.
  std::uint64_t factor_seed(const LinearSpec& spec, std::int64_t restart) const;

  std::string name_;
  LoraOptions options_;
  std::vector<LoraLinear*> layers_;   // owned by the model
};

}  // namespace kumiko::lowrank
