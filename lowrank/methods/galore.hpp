// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "lowrank/basis_probe.hpp"
#include "lowrank/galore_linear.hpp"
#include "lowrank/merge_schedule.hpp"
#include "lowrank/methods/basic_method.hpp"
#include "lowrank/moments.hpp"
#include "lowrank/refresh.hpp"

namespace kumiko::lowrank {

// plain: galore, arXiv 2403.03507. quantized: q_galore, arXiv 2407.08296, with weights in INT8 that are
// rounded stochastically, bases in INT4, blocks of 256 and lazy refresh by default; all of it can be had with
// either name.
enum class GaloreKind { plain, quantized };

struct GaloreOptions {
  std::int64_t rank = 0;  // auto: a quarter of the model's hidden size
  double scale = 0.25;
  Targets targets;
  StorageOptions storage;
  BasisOptions basis;
  MergeSchedule schedule;
  RefreshOptions refresh;
  Moments moments = Moments::keep;

  static GaloreOptions parse(const ConfigNode& node, GaloreKind kind, std::int64_t hidden_size,
                             std::int64_t total_steps);
};

// GaLore: the recipe's optimizer runs in the space of a basis of each weight's gradient. A refresh finds the
// bases from the step's own micro-batches in the passes of a probe, and the step's update is the first to use
// them.
// A refresh that meets non-finite numbers leaves the old bases in use; a layer without one is probed again at
// the next step.
class GaloreMethod final : public BasicMethod {
 public:
  GaloreMethod(const MethodContext& context, GaloreKind kind);

  std::string_view name() const noexcept override;
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override;
  void validate(const ModelOptions& model) const override;
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;
  StepPlan begin_step(std::int64_t step) override;
  void begin_pass(int pass) override { probe_.begin_pass(pass); }
  std::vector<at::Tensor> accumulators() override { return probe_.accumulators(); }
  void end_pass(int pass, dist::Communicator& comm) override { probe_.end_pass(pass, comm); }
  void end_probe(std::int64_t step, Optimizer& optimizer, dist::Communicator& comm,
                 MethodReport& report) override;
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

 private:
  // Gives the layer at this position of the probe its new basis. Returns |cos| of its first vector with the
  // old one's; on ranks that do not own the layer, and where there was no basis, 0.
  double refresh_layer(std::size_t position, Optimizer& optimizer, dist::Communicator& comm);
  void report_layers(const std::vector<double>& energies, MethodReport& report) const;

  GaloreKind kind_;
  GaloreOptions options_;
  BasisProbe probe_;
  std::vector<GaloreLinear*> layers_;    // owned by the model; by the probe's index
  std::vector<LayerRefresh> refreshes_;  // by the probe's index
};

}  // namespace kumiko::lowrank
