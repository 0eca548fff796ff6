// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "lowrank/basis_probe.hpp"
#include "lowrank/loqt_linear.hpp"
#include "lowrank/merge_schedule.hpp"
#include "lowrank/methods/basic_method.hpp"
#include "lowrank/moments.hpp"
#include "lowrank/refresh.hpp"

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
  RefreshOptions refresh;                  // which layers a due refresh merges
  std::int64_t stagger = 0;                // layers merged a step, beside its update; 0: all at a step that only probes
  double min_retained_update = 0.0;        // a layer whose merge would keep less waits for the next one
  double stall_warning = 0.5;              // of the mean retained update of a merge
  std::optional<RankLimits> rank_limits;   // ranks by captured energy; without budget, which is that of `rank` everywhere

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
  struct Outcome {
    bool merged = false;
    bool folded = false;       // a factor that was trained; not the first basis
    MergeResult result;        // on the rank that owns the layer
    double similarity = 0.0;   // likewise: of the old basis and the new one; 0 without an old one
  };
  Outcome merge_layer(std::size_t position, std::int64_t rank, Optimizer& optimizer, dist::Communicator& comm);
  std::optional<std::uint64_t> rounding_seed(const LoqtLinear& layer) const;
  std::vector<std::int64_t> ranks_of_probe(dist::Communicator& comm) const;
  void observe_similarities(const std::vector<Outcome>& outcomes, dist::Communicator& comm);
  void fill_report(const std::vector<Outcome>& outcomes, dist::Communicator& comm, MethodReport& report) const;
  void warn_of_a_stall(const MethodReport& report) const;

  std::string name_;
  LoqtOptions options_;
  BasisProbe probe_;
  std::vector<LoqtLinear*> layers_;      // owned by the model; by the probe's index
  std::int64_t merges_ = 0;
  std::vector<LayerRefresh> refreshes_;  // by the probe's index
  std::deque<std::size_t> waiting_;      // indices of layers whose turn comes in later steps
  bool round_merged_ = false;            // a layer was merged since the schedule was last due
};

}  // namespace kumiko::lowrank
