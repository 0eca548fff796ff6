// SPDX-License-Identifier: Apache-2.0
// The seam between the trainer and a training method: representation (make_linear), update rule (make_rule) and time
// (the step functions). The trainer knows no method; a method knows no trainer.
#pragma once

#include <memory>
#include <optional>
#include <string>
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

// Passes of a probe come first and move nothing by the optimizer; each sees the step's same micro-batches. A step that plans no
// update is a probe step.
struct StepPlan {
  bool update = true;
  int probe_passes = 0;
};

// What happened to one layer at a probe or a merge; what is unknown or did not happen is none.
struct LayerReport {
  std::string name;                           // the linear's
  std::optional<double> captured_energy;      // share of the gradient's energy in the new basis
  std::optional<double> retained_update;      // share of the folded update that the requantized weight kept
  std::optional<double> weight_error;         // |merged - stored| / |merged|
  std::optional<std::int64_t> rank;           // where it may differ by layer
};

// What a method reports of a step.
struct MethodReport {
  bool merged = false;              // factors were folded into weights
  bool skipped = false;             // a probe met non-finite numbers and changed nothing
  bool resized = false;             // sizes of parameters changed: their gradients must be bound again
  double captured_energy = 0.0;     // mean over layers of the sketch's energy in the kept basis; 0: unknown
  double weight_error = 0.0;        // mean over layers of |merged - stored| / |merged| after compensation
  std::vector<LayerReport> layers;  // those that a probe or a merge touched
};

class Method : public LinearFactory, public RuleFactory {
 public:
  virtual std::string_view name() const noexcept = 0;

  virtual void validate(const ModelOptions& model) const = 0;            // UsageError before anything is allocated
  // Bytes of the matrices: weights, scales, basis, factor, moments, gradients, sketches, scratch.
  virtual void plan(const ModelOptions& model, MemoryPlan& plan) const = 0;
  virtual StepPlan begin_step(std::int64_t /*step*/) { return {}; }
  virtual void begin_pass(int /*pass*/) {}
  // Tensors that the running pass adds to, fp32: the trainer sums them over micro-batches and ranks.
  virtual std::vector<at::Tensor> accumulators() { return {}; }
  virtual void end_pass(int /*pass*/, dist::Communicator& /*comm*/) {}
  // After the last pass of a probe, before the step's update if there is one.
  virtual void end_probe(std::int64_t /*step*/, Optimizer& /*optimizer*/, dist::Communicator& /*comm*/, MethodReport& /*report*/) {}
  // After the update. `step` has been taken.
  virtual void end_step(std::int64_t /*step*/, Optimizer& /*optimizer*/, dist::Communicator& /*comm*/, MethodReport& /*report*/) {}
  virtual double lr_scale(std::int64_t /*step*/) const { return 1.0; }
  virtual std::int64_t merges() const noexcept { return 0; }             // trained factors folded so far, counted in steps
  virtual void save(StateWriter& /*out*/) const {}
  virtual void load(const StateReader& /*in*/) {}
};

// What a method is built from.
struct MethodContext {
  const ConfigNode& options;                  // the recipe's block `method`
  const RuleFactory& rules;                   // of the recipe's optimizer; outlives the method
  const ModelOptions& model;
  at::ScalarType param_dtype;
  at::Device device;
  std::uint64_t seed;
  std::int64_t total_steps;
};
using MethodRegistry = Registry<Method, const MethodContext&>;

}  // namespace kumiko
