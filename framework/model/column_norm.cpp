// SPDX-License-Identifier: Apache-2.0
#include "framework/model/column_norm.hpp"

#include <array>
#include <cmath>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"

namespace kumiko {

void column_normalize(at::Tensor& matrix, int output_dim, ColumnLength length) {
  TORCH_INTERNAL_ASSERT(matrix.dim() == 2 && (output_dim == 0 || output_dim == 1));
  const int input_dim = 1 - output_dim;
  at::Tensor lengths = at::linalg_vector_norm(matrix, 2.0, at::IntArrayRef(input_dim), /*keepdim=*/true);
  if (length == ColumnLength::rms) lengths.mul_(1.0 / std::sqrt(static_cast<double>(matrix.size(input_dim))));
  matrix.div_(lengths.clamp_min_(1e-8));   // the bound of the authors' code
}

ColumnNorm::ColumnNorm(const ColumnNormOptions& options, const RuleSpec& spec)
    : MomentumRule(spec, options.momentum > 0.0), options_(options), output_dim_(spec.output_dim) {}

void ColumnNorm::apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) {
  if (momentum_.defined()) {
    momentum_.mul_(options_.momentum).add_(gradient, 1.0 - options_.momentum);
    gradient.copy_(momentum_);
  }
  column_normalize(gradient, output_dim_, options_.length);
  value.mul_(1.0 - lr * weight_decay).add_(gradient, -lr);
}

ColumnNormFactory::ColumnNormFactory(const ConfigNode& node) : vectors_(AdamOptions::parse(node)) {
  constexpr std::array<std::pair<std::string_view, ColumnLength>, 2> kLengths = {
      {{"rms", ColumnLength::rms}, {"euclidean", ColumnLength::euclidean}}};
  const auto length = node.choice("length", ColumnLength::rms, kLengths);
  matrices_ = {node.real("momentum", 0.0, {0.0, 0.99999999}), length};
  head_ = {node.real("head_momentum", 0.9, {0.0, 0.99999999}), length};
}

std::unique_ptr<UpdateRule> ColumnNormFactory::make_rule(const RuleSpec& spec) const {
  if (spec.sizes.size() != 2) return std::make_unique<AdamW>(vectors_, spec);
  return std::make_unique<ColumnNorm>(options_of(spec), spec);
}

std::int64_t ColumnNormFactory::rule_nbytes(const RuleSpec& spec) const {
  const std::int64_t numel = c10::multiply_integers(spec.sizes);
  return spec.sizes.size() != 2 ? AdamW::nbytes_for(numel) : ColumnNorm::nbytes_for(options_of(spec), numel);
}

}  // namespace kumiko
