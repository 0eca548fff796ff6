// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "lowrank/basis_probe.hpp"
#include "lowrank/loqt_linear.hpp"
#include "lowrank/merge_schedule.hpp"
#include "lowrank/methods/basic_method.hpp"
#include "lowrank/moments.hpp"

namespace kumiko::lowrank {

struct LoqtOptions {
  std::int64_t rank = 0;                   // auto: a quarter of the model's hidden size
  double scale = 0.5;
  Targets targets;
  StorageOptions storage;
  BasisOptions basis;
  int compensation_iterations = 5;
  at::ScalarType factor_dtype = at::kFloat;
  MergeSchedule schedule;
  Moments moments = Moments::rotate;

  // `quantized`: loqt; otherwise loqt_nq, whose weights and basis default to none.
  static LoqtOptions parse(const ConfigNode& node, bool quantized, std::int64_t hidden_size, std::int64_t total_steps);
};

// LoQT: quantized weights, a factor trained against a basis of the gradient, merged on a schedule. A merge is a probe step: a
// BasisProbe finds new bases, and then the layers are merged one after another, each by one rank.
class LoqtMethod final : public BasicMethod {
 public:
  LoqtMethod(const MethodContext& context, bool quantized);

  std::string_view name() const noexcept override { return name_; }
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override;
  void validate(const ModelOptions& model) const override;
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;
  StepPlan begin_step(std::int64_t step) override;
  void begin_pass(int pass) override { probe_.begin_pass(pass); }
  std::vector<at::Tensor> accumulators() override { return probe_.accumulators(); }
  void end_pass(int pass, dist::Communicator& comm) override { probe_.end_pass(pass, comm); }
  void end_probe(std::int64_t step, Optimizer& optimizer, dist::Communicator& comm, MethodReport& report) override;
  std::int64_t merges() const noexcept override { return merges_; }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

 private:
  void merge_layer(std::size_t position, Optimizer& optimizer, dist::Communicator& comm);

  std::string name_;
  LoqtOptions options_;
  BasisProbe probe_;
  std::vector<LoqtLinear*> layers_;      // owned by the model; by the probe's index
  std::int64_t merges_ = 0;
  std::vector<double> errors_;           // of the running merge, by the probe's position; 0 where another rank owns the layer
};

}  // namespace kumiko::lowrank
