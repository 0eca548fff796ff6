// SPDX-License-Identifier: Apache-2.0
// APOLLO and APOLLO-Mini (arXiv 2412.05270, Algorithm 1), with dense or quantized weights.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "lowrank/methods/basic_method.hpp"
#include "lowrank/projector.hpp"

namespace kumiko::lowrank {

// What shares one scaling factor: a channel, along the larger dimension of the matrix, or the whole tensor.
enum class Scaling { channel, tensor };

enum class ApolloKind { apollo, apollo_mini, q_apollo, q_apollo_mini };

struct ApolloOptions {
  std::int64_t rank = 0;             // r
  double scale = 1.0;                // alpha, sqrt(128) for Mini; apollo-torch is given its square
  Scaling scaling = Scaling::channel;
  std::int64_t refresh = 200;        // updates with one projection
  double norm_growth = 1.01;         // gamma of the limiter (Fira, arXiv 2410.01623); a large number turns it off
  Targets targets;
  StorageOptions storage;

  static ApolloOptions parse(const ConfigNode& node, ApolloKind kind, std::int64_t hidden_size);
};

// The random projection number `index` of a parameter, [min(out, in), r], N(0, 1/r): a function of the run's seed and these
// arguments, so that no checkpoint holds it. Update t of a rule, counted from 0, uses number t / refresh.
at::Tensor apollo_projection(std::uint64_t seed, const std::string& param_name, std::int64_t index, std::int64_t rows, std::int64_t rank);

// Scales the gradient G [out, in] by factors that an inner rule finds in a small space. With in <= out
//   R = G P [out, r],   R~ = the inner rule's direction for R,   s_i = |R~_i| / |R_i| for each row (or one for the tensor),
//   U = diag(s) G,   U <- U min(1, gamma |U_before| / |U|),   W <- (1 - lr wd) W - lr alpha c U
// and with in > out R = P^T G [r, in] and columns. The inner direction is taken before its bias correction c, which multiplies
// the limited update, as in the paper's Algorithm 1 with corrected steps.
class ApolloRule final : public UpdateRule {
 public:
  // inner: made for inner_spec(spec, rank).
  ApolloRule(const ApolloOptions& options, const RuleSpec& spec, std::uint64_t seed, std::unique_ptr<UpdateRule> inner);

  void apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) override;
  void forget() override;
  void transform(const MomentMap& map) override { inner_->transform(map); }
  void resize(at::IntArrayRef sizes) override;
  double bias_correction() const override { return inner_->bias_correction(); }
  std::vector<at::Tensor> state_tensors() override;
  std::int64_t state_nbytes() const override { return kOwnBytes + inner_->state_nbytes(); }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

  static RuleSpec inner_spec(const RuleSpec& spec, std::int64_t rank);
  static constexpr std::int64_t kOwnBytes = 16;

 private:
  at::Tensor factors(const at::Tensor& gradient);   // s / c: [out, 1], [1, in] or []
  double limited(double norm);                      // the share of an update of this norm that is taken

  ApolloOptions options_;
  RuleSpec spec_;
  Side side_;
  std::uint64_t seed_;
  std::unique_ptr<UpdateRule> inner_;
  at::Tensor updates_;   // [], int64
  at::Tensor norm_;      // [], fp64: of the last U that was taken; 0 where there is none
};

class ApolloMethod final : public BasicMethod {
 public:
  ApolloMethod(const MethodContext& context, ApolloKind kind);
  std::string_view name() const noexcept override;
  std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) override;
  std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const override;
  std::int64_t rule_nbytes(const RuleSpec& spec) const override;
  void validate(const ModelOptions& model) const override;
  void plan(const ModelOptions& model, MemoryPlan& plan) const override;

 private:
  ApolloKind kind_;
  ApolloOptions options_;
  std::set<std::string> scaled_;   // names of the targeted parameters
};

}  // namespace kumiko::lowrank
