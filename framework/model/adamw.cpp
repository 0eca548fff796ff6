// SPDX-License-Identifier: Apache-2.0
#include "framework/model/adamw.hpp"

#include <array>
#include <cmath>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko {

AdamOptions AdamOptions::parse(const ConfigNode& node) {
  AdamOptions options;
  const auto betas = node.reals("betas", {options.beta1, options.beta2}, {0.0, 0.99999999});
  if (betas.size() != 2) node.fail("betas", concat("has ", betas.size(), " numbers, needs two: [0.9, 0.999]"));
  options.beta1 = betas[0];
  options.beta2 = betas[1];
  options.eps = node.real("eps", options.eps, {1e-30, 1.0});   // 0 would divide 0 by 0 where a gradient was never seen
  return options;
}

double AdamOptions::bias_correction(double steps) const {
  return steps == 0.0 ? 1.0 : std::sqrt(1.0 - std::pow(beta2, steps)) / (1.0 - std::pow(beta1, steps));
}

AdamWFactory::AdamWFactory(const ConfigNode& node) : options_(AdamOptions::parse(node)) {
  constexpr std::array<std::pair<std::string_view, at::ScalarType>, 2> kDtypes = {{{"fp32", at::kFloat}, {"bf16", at::kBFloat16}}};
  state_ = node.choice("state", at::kFloat, kDtypes);
}

AdamW::AdamW(const AdamOptions& options, const RuleSpec& spec, at::ScalarType state)
    : options_(options), state_(state), step_(at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(spec.device))) {
  resize(spec.sizes);
}

void AdamW::resize(at::IntArrayRef sizes) {
  exp_avg_ = at::zeros(sizes, step_.options().dtype(state_));
  exp_avg_sq_ = at::zeros(sizes, step_.options().dtype(state_));
  step_.zero_();
}

void AdamW::apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) {
  step_.add_(1.0);
  at::Tensor first = exp_avg_.to(at::kFloat), second = exp_avg_sq_.to(at::kFloat);
  at::_fused_adamw_({value}, {gradient}, {first}, {second}, {}, {step_}, lr, options_.beta1, options_.beta2, weight_decay, options_.eps,
                    /*amsgrad=*/false, /*maximize=*/false);
  if (state_ == at::kFloat) return;
  exp_avg_.copy_(first);
  exp_avg_sq_.copy_(second);
}

void AdamW::forget() {
  exp_avg_.zero_();
  exp_avg_sq_.zero_();
  step_.zero_();
}

void AdamW::transform(const MomentMap& map) {
  exp_avg_ = map(exp_avg_.to(at::kFloat), 1).to(state_).contiguous();
  exp_avg_sq_ = map(exp_avg_sq_.to(at::kFloat), 2).to(state_).contiguous();
}

void AdamW::save(StateWriter& out) const {
  out.tensor("exp_avg", exp_avg_);
  out.tensor("exp_avg_sq", exp_avg_sq_);
  out.tensor("step", step_);
}

void AdamW::load(const StateReader& in) {
  in.read_into("exp_avg", exp_avg_);
  in.read_into("exp_avg_sq", exp_avg_sq_);
  in.read_into("step", step_);
}

}  // namespace kumiko
