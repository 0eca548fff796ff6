// SPDX-License-Identifier: Apache-2.0
#include "framework/model/adam8bit.hpp"

#include <ATen/ATen.h>

#include "framework/core/config.hpp"

namespace kumiko {

using quant::Int8Map;
using quant::Int8State;

Adam8bit::Adam8bit(const AdamOptions& options, const RuleSpec& spec)
    : options_(options), first_(spec.sizes, Int8Map::with_sign, spec.device), second_(spec.sizes, Int8Map::without_sign, spec.device),
      step_(at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(spec.device))) {}

void Adam8bit::resize(at::IntArrayRef sizes) {
  first_ = Int8State(sizes, Int8Map::with_sign, step_.device());
  second_ = Int8State(sizes, Int8Map::without_sign, step_.device());
  step_.zero_();
}

void Adam8bit::apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) {
  step_.add_(1.0);
  quant::adam8bit_step(value, gradient, first_, second_,
                       {lr, options_.beta1, options_.beta2, options_.eps, weight_decay, static_cast<std::int64_t>(step_.item<float>())});
}

void Adam8bit::transform(const MomentMap& map) {
  const auto carry = [&](const Int8State& state, int power) {
    const at::Tensor mapped = map(state.dequantize(), power);
    Int8State result(mapped.sizes(), state.map(), step_.device());
    result.assign(mapped);
    return result;
  };
  first_ = carry(first_, 1);
  second_ = carry(second_, 2);
}

std::vector<at::Tensor> Adam8bit::state_tensors() {
  return {first_.codes(), first_.absmax(), second_.codes(), second_.absmax(), step_};
}

void Adam8bit::save(StateWriter& out) const {
  out.tensor("exp_avg/codes", first_.codes());
  out.tensor("exp_avg/absmax", first_.absmax());
  out.tensor("exp_avg_sq/codes", second_.codes());
  out.tensor("exp_avg_sq/absmax", second_.absmax());
  out.tensor("step", step_);
}

void Adam8bit::load(const StateReader& in) {
  const auto read = [&in](const char* name, at::Tensor stored) { in.read_into(name, stored); };
  read("exp_avg/codes", first_.codes());
  read("exp_avg/absmax", first_.absmax());
  read("exp_avg_sq/codes", second_.codes());
  read("exp_avg_sq/absmax", second_.absmax());
  read("step", step_);
}

Adam8bitFactory::Adam8bitFactory(const ConfigNode& node)
    : options_(AdamOptions::parse(node)), min_8bit_size_(node.integer("min_8bit_size", 4096, {0, std::int64_t{1} << 40})) {}

std::unique_ptr<UpdateRule> Adam8bitFactory::make_rule(const RuleSpec& spec) const {
  if (c10::multiply_integers(spec.sizes) < min_8bit_size_) return std::make_unique<AdamW>(options_, spec);
  return std::make_unique<Adam8bit>(options_, spec);
}

std::int64_t Adam8bitFactory::rule_nbytes(const RuleSpec& spec) const {
  const std::int64_t numel = c10::multiply_integers(spec.sizes);
  return numel < min_8bit_size_ ? AdamW::nbytes_for(numel) : Adam8bit::nbytes_for(numel);
}

}  // namespace kumiko
