// SPDX-License-Identifier: Apache-2.0
#include "framework/model/adafactor.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/model/fixed_sum.hpp"

namespace kumiko {
namespace {

// The mean of squares over one dimension, which stays with size 1.
at::Tensor mean_of_squares(const at::Tensor& matrix, std::int64_t dim) {
  return at::linalg_vector_norm(matrix, 2.0, at::IntArrayRef(dim), /*keepdim=*/true).square_().div_(static_cast<double>(matrix.size(dim)));
}

double root_mean_square(const at::Tensor& values) { return std::sqrt(sum_of_squares(values) / static_cast<double>(values.numel())); }

}  // namespace

AdafactorOptions AdafactorOptions::parse(const ConfigNode& node) {
  AdafactorOptions options;
  const auto eps = node.reals("eps", {options.eps1, options.eps2}, {1e-36, 1.0});
  if (eps.size() != 2) node.fail("eps", concat("has ", eps.size(), " numbers, needs two: [1e-30, 1e-3]"));
  options.eps1 = eps[0];
  options.eps2 = eps[1];
  options.clip_threshold = node.real("clip_threshold", options.clip_threshold, {1e-6, 1e6});
  options.decay_rate = node.real("decay_rate", options.decay_rate, {-10.0, -1e-6});
  options.beta1 = node.real("beta1", options.beta1, {0.0, 0.99999999});
  options.scale_parameter = node.boolean("scale_parameter", options.scale_parameter);
  options.relative_step = node.boolean("relative_step", options.relative_step);
  return options;
}

Adafactor::Adafactor(const AdafactorOptions& options, const RuleSpec& spec)
    : options_(options), step_(at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(spec.device))) {
  Adafactor::resize(spec.sizes);
}

std::int64_t Adafactor::nbytes_for(const AdafactorOptions& options, at::IntArrayRef sizes) {
  const std::int64_t numel = c10::multiply_integers(sizes);
  return 4 * ((sizes.size() == 2 ? sizes[0] + sizes[1] : numel) + (options.beta1 > 0.0 ? numel : 0) + 1);
}

void Adafactor::resize(at::IntArrayRef sizes) {
  if (sizes.size() == 2) {
    rows_ = at::zeros({sizes[0], 1}, step_.options());
    columns_ = at::zeros({1, sizes[1]}, step_.options());
  } else {
    rows_ = at::zeros(sizes, step_.options());
  }
  if (options_.beta1 > 0.0) exp_avg_ = at::zeros(sizes, step_.options());
  step_.zero_();
}

void Adafactor::update_moments(const at::Tensor& gradient, double keep) {
  if (factored()) {
    rows_.mul_(keep).add_(mean_of_squares(gradient, 1).add_(options_.eps1), 1.0 - keep);
    columns_.mul_(keep).add_(mean_of_squares(gradient, 0).add_(options_.eps1), 1.0 - keep);
  } else {
    rows_.mul_(keep).add_(gradient.square().add_(options_.eps1), 1.0 - keep);
  }
}

void Adafactor::divide_by_root(at::Tensor& gradient) const {
  if (factored()) {
    gradient.mul_(rows_.div(rows_.mean(at::kDouble).to(at::kFloat)).rsqrt_()).mul_(columns_.rsqrt());
  } else {
    gradient.mul_(rows_.rsqrt());
  }
}

void Adafactor::apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) {
  step_.add_(1.0);
  const double t = step_.item<float>();
  update_moments(gradient, 1.0 - std::pow(t, options_.decay_rate));
  divide_by_root(gradient);
  gradient.div_(std::max(1.0, root_mean_square(gradient) / options_.clip_threshold));
  if (exp_avg_.defined()) exp_avg_.mul_(options_.beta1).add_(gradient, 1.0 - options_.beta1);
  double size = options_.relative_step ? std::min(lr, 1.0 / std::sqrt(t)) : lr;
  if (options_.scale_parameter) size *= std::max(options_.eps2, root_mean_square(value));
  value.mul_(1.0 - lr * weight_decay).add_(exp_avg_.defined() ? exp_avg_ : gradient, -size);
}

void Adafactor::forget() {
  for (at::Tensor& tensor : state_tensors()) tensor.zero_();
}

void Adafactor::transform(const MomentMap& map) {
  if (exp_avg_.defined()) exp_avg_ = map(exp_avg_, 1).contiguous();
  if (!factored()) {
    rows_ = map(rows_, 2).contiguous();
    return;
  }
  // Before the first gradient the mean is 0, and so are all moments.
  const at::Tensor moments = map(rows_.mul(columns_).div_(rows_.mean(at::kDouble).to(at::kFloat).clamp_min_(1e-38)), 2);
  rows_ = moments.mean(1, /*keepdim=*/true).contiguous();
  columns_ = moments.mean(0, /*keepdim=*/true).contiguous();
}

std::vector<at::Tensor> Adafactor::state_tensors() {
  std::vector<at::Tensor> tensors = {rows_, step_};
  if (factored()) tensors.push_back(columns_);
  if (exp_avg_.defined()) tensors.push_back(exp_avg_);
  return tensors;
}

std::int64_t Adafactor::state_nbytes() const {
  std::int64_t numel = rows_.numel() + 1;
  if (factored()) numel += columns_.numel();
  if (exp_avg_.defined()) numel += exp_avg_.numel();
  return 4 * numel;
}

void Adafactor::save(StateWriter& out) const {
  out.tensor(factored() ? "rows" : "squares", rows_);
  if (factored()) out.tensor("columns", columns_);
  if (exp_avg_.defined()) out.tensor("exp_avg", exp_avg_);
  out.tensor("step", step_);
}

void Adafactor::load(const StateReader& in) {
  in.read_into(factored() ? "rows" : "squares", rows_);
  if (factored()) in.read_into("columns", columns_);
  if (exp_avg_.defined()) in.read_into("exp_avg", exp_avg_);
  in.read_into("step", step_);
}

void AdafactorFactory::check(const RuleSpec& spec) const {
  if (options_.scale_parameter && !spec.sees_value) {
    node_.fail("scale_parameter", concat("is true, but ", spec.name, " is not kept as it is trained, so that its scale is not known; needs false"));
  }
  if (options_.relative_step && !spec.sees_rate) {
    node_.fail("relative_step", concat("is true, but the method takes only the direction of ", spec.name, " from this optimizer; needs false"));
  }
}

std::unique_ptr<UpdateRule> AdafactorFactory::make_rule(const RuleSpec& spec) const {
  check(spec);
  return std::make_unique<Adafactor>(options_, spec);
}

}  // namespace kumiko
