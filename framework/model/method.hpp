// SPDX-License-Identifier: Apache-2.0
// The seam between the trainer and a training method: representation (make_linear), update rule (make_optimizer) and time
// (the step functions). The trainer knows no method; a method knows no trainer.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "dist/communicator.hpp"
#include "framework/core/config.hpp"
#include "framework/core/registry.hpp"
#include "framework/model/language_model.hpp"
#include "framework/model/linear.hpp"
#include "framework/model/memory_plan.hpp"
#include "framework/model/optimizer.hpp"

namespace kumiko {

// A probe step moves nothing by the optimizer; each pass sees the step's same micro-batches.
struct StepPlan {
  bool update = true;
  int probe_passes = 0;
};

// What a method reports of a step.
struct MethodReport {
  bool merged = false;              // factors were folded into weights
  bool skipped = false;             // a probe met non-finite numbers and changed nothing
  double captured_energy = 0.0;     // mean over layers of the sketch's energy in the kept basis; 0: unknown
  double weight_error = 0.0;        // mean over layers of |merged - stored| / |merged| after compensation
};

class Method : public LinearFactory {
 public:
  virtual std::string_view name() const noexcept = 0;
  virtual std::unique_ptr<Optimizer> make_optimizer(const std::vector<Parameter*>& parameters) = 0;

  virtual void validate(const ModelOptions& model) const = 0;            // UsageError before anything is allocated
  virtual void plan(const ModelOptions& model, MemoryPlan& plan) const = 0;   // fills all but activations
  virtual StepPlan begin_step(std::int64_t /*step*/) { return {}; }
  virtual void begin_pass(int /*pass*/) {}
  // Tensors that the running pass adds to, fp32: the trainer sums them over micro-batches and ranks.
  virtual std::vector<at::Tensor> accumulators() { return {}; }
  virtual void end_pass(int /*pass*/, dist::Communicator& /*comm*/) {}
  virtual MethodReport end_step(std::int64_t /*step*/, Optimizer& /*optimizer*/, dist::Communicator& /*comm*/) { return {}; }
  virtual double lr_scale(std::int64_t /*step*/) const { return 1.0; }
  virtual std::int64_t merges() const noexcept { return 0; }             // trained factors folded so far, counted in steps
  virtual void save(StateWriter& /*out*/) const {}
  virtual void load(const StateReader& /*in*/) {}
};

// What a method is built from.
struct MethodContext {
  const ConfigNode& options;                  // the recipe's block `method`
  const OptimizerRegistry& optimizers;
  const ModelOptions& model;
  OptimizerOptions optimizer;
  at::ScalarType param_dtype;
  at::Device device;
  std::uint64_t seed;
  std::int64_t total_steps;
};
using MethodRegistry = Registry<Method, const MethodContext&>;

}  // namespace kumiko
