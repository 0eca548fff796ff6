// SPDX-License-Identifier: Apache-2.0
// The seam through which update rules join: AdamW and others by name, and methods that wrap them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "framework/core/registry.hpp"
#include "framework/core/state.hpp"
#include "framework/model/parameter.hpp"

namespace kumiko {

class ConfigNode;

// Carries a moment into a new basis: power 1 for first moments (R m), 2 for second moments ((R o R) v). It may change sizes.
using MomentMap = std::function<at::Tensor(const at::Tensor& moment, int power)>;

// How one tensor moves by its gradients, with the state this needs.
class UpdateRule {
 public:
  virtual ~UpdateRule() = default;
  // value, gradient: contiguous fp32 of the rule's sizes. In place: value <- (1 - lr weight_decay) value - lr direction, where
  // the direction follows from the gradients seen so far. `gradient` may be written to.
  virtual void apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) = 0;
  virtual void forget() = 0;                                  // state and step count
  virtual void transform(const MomentMap& map) = 0;           // moments into a new basis
  virtual void resize(at::IntArrayRef sizes) = 0;             // of value and gradient; forgets
  // c, where the last direction was c times one of moments that start at zero and are not corrected for that; else 1.
  virtual double bias_correction() const { return 1.0; }
  virtual std::vector<at::Tensor> state_tensors() = 0;        // live, contiguous, for a broadcast
  virtual std::int64_t state_nbytes() const = 0;
  virtual void save(StateWriter& out) const = 0;              // names without the parameter's
  virtual void load(const StateReader& in) = 0;
};

// What a rule is made for.
struct RuleSpec {
  std::string name;                     // the parameter's
  ParamRole role = ParamRole::matrix;
  std::vector<std::int64_t> sizes;      // of its gradient
  at::Device device = at::kCPU;
  int output_dim = 0;                   // as Parameter has it; no state's size depends on it
  bool sees_value = true;               // apply() gets the parameter's values; otherwise zeros, to which it adds an update
  bool sees_rate = true;                // apply() gets the learning rate; otherwise 1, for a direction that another rule scales
  bool is_last_layer = false;           // the head, or the embedding that is tied to it
};

class RuleFactory {
 public:
  virtual ~RuleFactory() = default;
  virtual std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const = 0;
  virtual std::int64_t rule_nbytes(const RuleSpec& spec) const = 0;   // state_nbytes() of what make_rule makes
};

// The recipe's `optimizer.name`, built from its block, of which each rule reads its own keys.
using OptimizerRegistry = Registry<RuleFactory, const ConfigNode&>;
void register_builtin_optimizers(OptimizerRegistry& registry);

}  // namespace kumiko
