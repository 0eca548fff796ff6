// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "framework/core/state.hpp"
#include "framework/model/parameter.hpp"
#include "framework/model/update_rule.hpp"

namespace kumiko {

// Multipliers of the learning rate by role (recipe: optimizer.lr_scale). `matrices` also holds for factors.
struct LrScale {
  double matrices = 1.0;
  double embedding = 1.0;
  double head = 1.0;
  double norms = 1.0;

  double of(ParamRole role) const noexcept;
};

// What every optimizer has; the rest of the block `optimizer` is read by the rule of that name.
struct OptimizerOptions {
  std::string name = "adamw";
  double lr = 1e-3;
  LrScale lr_scale;
  double weight_decay = 0.0;   // decoupled; matrices and factors only

  static OptimizerOptions parse(const ConfigNode& node);   // the recipe's block `optimizer`
};

// Moves parameters, each by a rule of its own. State is named by parameter.
class Optimizer {
 public:
  // The parameters and the factory are borrowed.
  Optimizer(const OptimizerOptions& options, const std::vector<Parameter*>& parameters, const RuleFactory& rules, at::Device device = at::kCPU);

  void step(double learning_rate);                             // all parameters, in their order
  void update(Parameter& parameter, double learning_rate);     // one, from its gradient
  void forget(const std::string& param_name) { find(param_name).forget(); }
  void transform(const std::string& param_name, const MomentMap& map) { find(param_name).transform(map); }
  void resize(const std::string& param_name, at::IntArrayRef sizes) { find(param_name).resize(sizes); }   // forgets
  std::vector<at::Tensor> state_tensors(const std::string& param_name) { return find(param_name).state_tensors(); }
  std::int64_t state_nbytes() const;
  void save(StateWriter& out) const;
  void load(const StateReader& in);   // rules take the sizes that the parameters have by now

 private:
  struct Entry {
    Parameter* parameter;
    std::unique_ptr<UpdateRule> rule;
  };
  UpdateRule& find(const std::string& param_name);

  OptimizerOptions options_;
  std::vector<Entry> entries_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace kumiko
