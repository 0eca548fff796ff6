// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/apollo.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"
#include "framework/model/fixed_sum.hpp"

namespace kumiko::lowrank {
namespace {

constexpr double kTiny = 1e-8;   // keeps the factor of a channel without gradient finite

bool is_mini(ApolloKind kind) noexcept { return kind == ApolloKind::apollo_mini || kind == ApolloKind::q_apollo_mini; }

bool is_quantized(ApolloKind kind) noexcept { return kind == ApolloKind::q_apollo || kind == ApolloKind::q_apollo_mini; }

StorageOptions::Defaults storage_defaults(ApolloKind kind) {
  if (!is_quantized(kind)) return {.has_basis = false};
  return {.weights = "int8", .block_size = 128, .double_quant = false, .rounding = Rounding::stochastic, .has_basis = false};
}

}  // namespace

ApolloOptions ApolloOptions::parse(const ConfigNode& node, ApolloKind kind, std::int64_t hidden_size) {
  constexpr std::array<std::pair<std::string_view, Scaling>, 2> kScalings = {{{"channel", Scaling::channel}, {"tensor", Scaling::tensor}}};
  ApolloOptions options;
  options.rank = is_mini(kind) ? node.integer("rank", 1, {1, 1 << 20}) : parse_rank(node, hidden_size);
  options.scale = node.real("scale", is_mini(kind) ? std::sqrt(128.0) : 1.0, {1e-6, 1e6});
  options.scaling = node.choice("scaling", is_mini(kind) ? Scaling::tensor : Scaling::channel, kScalings);
  options.refresh = node.integer("refresh", 200, {1, std::int64_t{1} << 40});
  options.norm_growth = node.real("norm_growth", 1.01, {1.0, std::numeric_limits<double>::max()});
  options.targets = Targets::parse(node);
  options.storage = StorageOptions::parse(node, storage_defaults(kind));
  return options;
}

at::Tensor apollo_projection(std::uint64_t seed, const std::string& param_name, std::int64_t index, std::int64_t rows, std::int64_t rank) {
  at::Tensor projection = at::empty({rows, rank}, at::kFloat);
  fill_normal(projection, 1.0 / std::sqrt(static_cast<double>(rank)), stream_seed(seed, concat("projection/", param_name, "/", index)));
  return projection;
}

ApolloRule::ApolloRule(const ApolloOptions& options, const RuleSpec& spec, std::uint64_t seed, std::unique_ptr<UpdateRule> inner)
    : options_(options), spec_(spec), side_(default_side(spec.sizes[1], spec.sizes[0])), seed_(seed), inner_(std::move(inner)),
      updates_(at::zeros({}, at::kLong)), norm_(at::zeros({}, at::kDouble)) {}

RuleSpec ApolloRule::inner_spec(const RuleSpec& spec, std::int64_t rank) {
  RuleSpec inner = spec;
  (default_side(spec.sizes[1], spec.sizes[0]) == Side::input ? inner.sizes[1] : inner.sizes[0]) = rank;
  inner.sees_value = false;
  inner.sees_rate = false;
  return inner;
}

at::Tensor ApolloRule::factors(const at::Tensor& gradient) {
  const std::int64_t index = updates_.item<std::int64_t>() / options_.refresh;
  const at::Tensor projection =
      apollo_projection(seed_, spec_.name, index, std::min(spec_.sizes[0], spec_.sizes[1]), options_.rank).to(spec_.device);
  at::Tensor projected = at::empty(inner_spec(spec_, options_.rank).sizes, gradient.options());
  if (side_ == Side::input) {
    multiply_add(projected, gradient, projection, 0.0, 1.0);
  } else {
    multiply_add(projected, projection.t().contiguous(), gradient, 0.0, 1.0);
  }
  at::Tensor direction = at::zeros_like(projected);
  const auto norms = [&](const at::Tensor& matrix) {
    if (options_.scaling == Scaling::tensor) return at::scalar_tensor(std::sqrt(sum_of_squares(matrix)), matrix.options());
    return at::sum(matrix.square(), at::IntArrayRef({side_ == Side::input ? 1 : 0}), /*keepdim=*/true, at::kDouble).sqrt_().to(at::kFloat);
  };
  const at::Tensor before = norms(projected).add_(kTiny);
  inner_->apply(direction, projected, 1.0, 0.0);
  return norms(direction).div_(before).div_(inner_->bias_correction());
}

double ApolloRule::limited(double norm) {
  const double last = norm_.item<double>();
  const double share = last > 0.0 ? std::min(1.0, options_.norm_growth * last / norm) : 1.0;
  norm_.fill_(norm * share);
  return share;
}

void ApolloRule::apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) {
  gradient.mul_(factors(gradient));
  updates_.add_(1);
  const double norm = std::sqrt(sum_of_squares(gradient));
  const double step = norm > 0.0 ? lr * options_.scale * inner_->bias_correction() * limited(norm) : 0.0;
  if (weight_decay != 0.0) value.mul_(1.0 - lr * weight_decay);
  value.sub_(gradient, step);
}

void ApolloRule::forget() {
  inner_->forget();
  updates_.zero_();
  norm_.zero_();
}

void ApolloRule::resize(at::IntArrayRef sizes) {
  spec_.sizes = sizes.vec();
  side_ = default_side(sizes[1], sizes[0]);
  inner_->resize(inner_spec(spec_, options_.rank).sizes);
  updates_.zero_();
  norm_.zero_();
}

std::vector<at::Tensor> ApolloRule::state_tensors() {
  std::vector<at::Tensor> tensors = inner_->state_tensors();
  tensors.push_back(updates_);
  tensors.push_back(norm_);
  return tensors;
}

void ApolloRule::save(StateWriter& out) const {
  ScopedWriter inner(out, "projected/");
  inner_->save(inner);
  out.tensor("updates", updates_);
  out.tensor("norm", norm_);
}

void ApolloRule::load(const StateReader& in) {
  inner_->load(ScopedReader(in, "projected/"));
  in.read_into("updates", updates_);
  in.read_into("norm", norm_);
}

ApolloMethod::ApolloMethod(const MethodContext& context, ApolloKind kind)
    : BasicMethod(context), kind_(kind), options_(ApolloOptions::parse(context.options, kind, context.model.hidden_size)) {
  for (const auto& spec : context.model.linear_specs()) {
    if (options_.targets.has(spec)) scaled_.insert(spec.name + ".weight");
  }
}

std::string_view ApolloMethod::name() const noexcept {
  switch (kind_) {
    case ApolloKind::apollo: return "apollo";
    case ApolloKind::apollo_mini: return "apollo_mini";
    case ApolloKind::q_apollo: return "q_apollo";
    case ApolloKind::q_apollo_mini: return "q_apollo_mini";
  }
  return "";
}

std::unique_ptr<Linear> ApolloMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  return options_.targets.has(spec) ? make_trained(spec, initial, options_.storage) : make_dense(spec, initial);
}

std::unique_ptr<UpdateRule> ApolloMethod::make_rule(const RuleSpec& spec) const {
  if (!scaled_.contains(spec.name)) return BasicMethod::make_rule(spec);
  return std::make_unique<ApolloRule>(options_, spec, seed_, rules_.make_rule(ApolloRule::inner_spec(spec, options_.rank)));
}

std::int64_t ApolloMethod::rule_nbytes(const RuleSpec& spec) const {
  if (!scaled_.contains(spec.name)) return BasicMethod::rule_nbytes(spec);
  return ApolloRule::kOwnBytes + rules_.rule_nbytes(ApolloRule::inner_spec(spec, options_.rank));
}

void ApolloMethod::validate(const ModelOptions& model) const { check_rank(options_.rank, options_.targets, model.linear_specs()); }

void ApolloMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  for (const auto& spec : model.linear_specs()) {
    if (!options_.targets.has(spec)) {
      plan_dense(spec, plan);
      continue;
    }
    plan_trained(spec, options_.storage, plan);
    // The projection, and R with its direction.
    plan.scratch = std::max(plan.scratch, 4 * options_.rank * (std::min(spec.in_features, spec.out_features) +
                                                               2 * std::max(spec.in_features, spec.out_features)));
  }
}

}  // namespace kumiko::lowrank
