// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "lowrank/low_rank_linear.hpp"
#include "lowrank/methods/basic_method.hpp"

namespace kumiko::lowrank {

// kaiming: LowRankLinear::draw; spectral: LowRankLinear::approximate of the matrix that full-rank training would begin with.
enum class LowRankInit { kaiming, spectral };

struct LowRankOptions {
  std::int64_t rank = 0;   // auto: a quarter of the model's hidden size
  Targets targets;
  LowRankInit init = LowRankInit::kaiming;
  at::ScalarType factor_dtype = at::kFloat;

  // Keys rank, targets, init, factor.
  static LowRankOptions parse(const ConfigNode& node, std::int64_t hidden_size);
};

// W = B A, both factors trained (the "Low-Rank" baseline of arXiv 2403.03507, after arXiv 2209.13569).
class LowRankMethod final : public BasicMethod {
 public:
  explicit LowRankMethod(const MethodContext& context)
      : BasicMethod(context), options_(LowRankOptions::parse(context.options, context.model.hidden_size)) {}

  std::string_view name() const noexcept override { return "low_rank"; }
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override;
  void validate(const ModelOptions& model) const override;
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;
  // After step 0 the factors are those of rank 0: an eigendecomposition may differ between machines in the last bits, which the
  // summed gradients do not even out.
  void end_step(std::int64_t step, Optimizer& optimizer, dist::Communicator& comm, MethodReport& report) override;

 private:
  LowRankOptions options_;
  std::vector<LowRankLinear*> layers_;   // owned by the model
};

}  // namespace kumiko::lowrank
