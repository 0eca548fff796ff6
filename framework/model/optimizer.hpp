// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "framework/core/registry.hpp"
#include "framework/core/state.hpp"
#include "framework/model/parameter.hpp"

namespace kumiko {

class ConfigNode;

// Multipliers of the learning rate by role (recipe: optimizer.lr_scale). `matrices` also holds for factors.
struct LrScale {
  double matrices = 1.0;
  double embedding = 1.0;
  double head = 1.0;
  double norms = 1.0;

  double of(ParamRole role) const noexcept;
};

struct OptimizerOptions {
  std::string name = "adamw";
  double lr = 1e-3;
  LrScale lr_scale;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-6;
  double weight_decay = 0.0;   // decoupled; matrices and factors only

  static OptimizerOptions parse(const ConfigNode& node);   // the recipe's block `optimizer`
};

// Carries a moment into a new basis: power 1 for first moments (R m), 2 for second moments ((R o R) v).
using MomentMap = std::function<at::Tensor(const at::Tensor& moment, int power)>;

// Changes parameters in place from their gradients. State is named by parameter.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual void step(double learning_rate) = 0;
  virtual void forget(const std::string& param_name) = 0;                            // moments and step count
  virtual void transform(const std::string& param_name, const MomentMap& map) = 0;   // moments into a new basis
  virtual std::vector<at::Tensor> state_tensors(const std::string& param_name) = 0;  // live, for a broadcast
  virtual std::int64_t state_nbytes() const = 0;
  virtual void save(StateWriter& out) const = 0;
  virtual void load(const StateReader& in) = 0;
};

using OptimizerRegistry = Registry<Optimizer, const OptimizerOptions&, const std::vector<Parameter*>&>;
void register_builtin_optimizers(OptimizerRegistry& registry);

}  // namespace kumiko
