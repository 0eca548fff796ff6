// SPDX-License-Identifier: Apache-2.0
#include "framework/model/muon.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/model/fixed_sum.hpp"

namespace kumiko {
namespace {

constexpr double kSmallestNorm = 1e-7;   // torch.optim.Muon's eps

bool takes(const RuleSpec& spec) {
  return spec.sizes.size() == 2 && (spec.role == ParamRole::matrix || spec.role == ParamRole::factor);
}

}  // namespace

MuonOptions MuonOptions::parse(const ConfigNode& node) {
  constexpr std::array<std::pair<std::string_view, MuonLr>, 2> kLr = {
      {{"original", MuonLr::original}, {"match_rms_adamw", MuonLr::match_rms_adamw}}};
  constexpr std::array<std::pair<std::string_view, at::ScalarType>, 2> kDtypes = {{{"fp32", at::kFloat}, {"bf16", at::kBFloat16}}};
  MuonOptions options;
  options.momentum = node.real("momentum", options.momentum, {0.0, 0.99999999});
  options.nesterov = node.boolean("nesterov", options.nesterov);
  options.ns_steps = static_cast<int>(node.integer("ns_steps", options.ns_steps, {1, 99}));
  const std::vector<double> usual(options.ns_coefficients.begin(), options.ns_coefficients.end());
  const auto coefficients = node.reals("ns_coefficients", usual, {-100.0, 100.0});
  if (coefficients.size() != 3) {
    node.fail("ns_coefficients", concat("has ", coefficients.size(), " numbers, needs three: [3.4445, -4.7750, 2.0315]"));
  }
  std::copy(coefficients.begin(), coefficients.end(), options.ns_coefficients.begin());
  options.adjust_lr_fn = node.choice("adjust_lr_fn", options.adjust_lr_fn, kLr);
  options.ns_dtype = node.choice("ns_dtype", options.ns_dtype, kDtypes);
  return options;
}

at::Tensor orthogonalize(const at::Tensor& matrix, const MuonOptions& options) {
  const auto [a, b, c] = options.ns_coefficients;
  const bool tall = matrix.size(0) > matrix.size(1);
  const double norm = std::max(std::sqrt(sum_of_squares(matrix)), kSmallestNorm);
  at::Tensor x = (tall ? matrix.t() : matrix).div(norm).to(options.ns_dtype).contiguous();
  at::Tensor next = at::empty_like(x);
  at::Tensor gram = at::empty({x.size(0), x.size(0)}, x.options());
  at::Tensor polynomial = at::empty_like(gram);
  for (int i = 0; i < options.ns_steps; ++i) {
    multiply_add(gram, x, x.t(), 0.0, 1.0);
    polynomial.copy_(gram);
    multiply_add(polynomial, gram, gram, b, c);
    next.copy_(x);
    multiply_add(next, polynomial, x, a, 1.0);
    std::swap(x, next);
  }
  return (tall ? x.t() : x).to(at::kFloat).contiguous();
}

Muon::Muon(const MuonOptions& options, const RuleSpec& spec) : MomentumRule(spec, true), options_(options), output_dim_(spec.output_dim) {}

void Muon::apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) {
  const double u = options_.momentum;
  momentum_.mul_(u).add_(gradient, 1.0 - u);
  if (options_.nesterov) gradient.mul_(1.0 - u).add_(momentum_, u);
  const at::Tensor direction = orthogonalize(options_.nesterov ? gradient : momentum_, options_);
  const auto out = static_cast<double>(value.size(output_dim_));
  const auto in = static_cast<double>(value.size(1 - output_dim_));
  const double factor = options_.adjust_lr_fn == MuonLr::original ? std::sqrt(std::max(1.0, out / in)) : 0.2 * std::sqrt(std::max(out, in));
  value.mul_(1.0 - lr * weight_decay).add_(direction, -lr * factor);
}

std::unique_ptr<UpdateRule> MuonFactory::make_rule(const RuleSpec& spec) const {
  if (!takes(spec)) return std::make_unique<AdamW>(others_, spec);
  return std::make_unique<Muon>(options_, spec);
}

std::int64_t MuonFactory::rule_nbytes(const RuleSpec& spec) const {
  const std::int64_t numel = c10::multiply_integers(spec.sizes);
  return takes(spec) ? Muon::nbytes_for(numel) : AdamW::nbytes_for(numel);
}

}  // namespace kumiko
