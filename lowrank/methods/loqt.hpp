// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "lowrank/methods/basic_method.hpp"
#include "lowrank/basis_sketch.hpp"
#include "lowrank/loqt_linear.hpp"
#include "lowrank/merge_schedule.hpp"

namespace kumiko::lowrank {

enum class Moments { keep, reset, rotate };

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

// LoQT: quantized weights, a factor trained against a basis of the gradient, merged on a schedule. A merge is a probe step:
// passes over the step's micro-batches collect a sketch of the gradient of each layer (layers in groups that fit
// basis.group_memory), the bases are fitted, each by one rank, and then the layers are merged one after another.
class LoqtMethod final : public BasicMethod {
 public:
  LoqtMethod(const MethodContext& context, bool quantized);

  std::string_view name() const noexcept override { return name_; }
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override;
  void validate(const ModelOptions& model) const override;
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;
  StepPlan begin_step(std::int64_t step) override;
  void begin_pass(int pass) override;
  std::vector<at::Tensor> accumulators() override;
  void end_pass(int pass, dist::Communicator& comm) override;
  void end_probe(std::int64_t step, Optimizer& optimizer, dist::Communicator& comm, MethodReport& report) override;
  std::int64_t merges() const noexcept override { return merges_; }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

 private:
  struct Group {
    std::size_t first, last;   // layers [first, last)
  };
  std::vector<Group> make_groups() const;
  std::uint64_t sketch_seed(const LoqtLinear& layer) const;
  void merge_layer(std::size_t index, Optimizer& optimizer, dist::Communicator& comm);

  std::string name_;
  LoqtOptions options_;
  std::vector<LoqtLinear*> layers_;      // owned by the model
  std::int64_t probes_ = 0;              // probe steps taken: names the random test matrices
  std::int64_t merges_ = 0;

  // Of the running probe step.
  std::vector<Group> groups_;
  int passes_per_group_ = 0;
  std::vector<std::unique_ptr<BasisSketch>> sketches_;           // of the running group
  std::vector<std::optional<Projector>> fitted_;                 // by layer; only on the rank that owns it
  std::vector<double> energy_, error_;                           // by layer; 0 where another rank owns it
  bool finite_ = true;
};

}  // namespace kumiko::lowrank
