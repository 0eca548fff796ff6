// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/method.hpp"
#include "lowrank/method_options.hpp"

namespace kumiko::lowrank {

// What methods share: the recipe's optimizer as update rule, and matrices that stay dense and trained.
class BasicMethod : public Method {
 public:
  std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const override { return rules_.make_rule(spec); }
  std::int64_t rule_nbytes(const RuleSpec& spec) const override { return rules_.rule_nbytes(spec); }

 protected:
  explicit BasicMethod(const MethodContext& context)
      : rules_(context.rules), param_dtype_(context.param_dtype), device_(context.device), seed_(context.seed) {}

  std::unique_ptr<Linear> make_dense(const LinearSpec& spec, const at::Tensor& initial) const;
  void plan_dense(const LinearSpec& spec, MemoryPlan& plan) const;
  // Trained in full size and stored as `storage` says: dense, or quantized again after each update.
  std::unique_ptr<Linear> make_trained(const LinearSpec& spec, const at::Tensor& initial, const StorageOptions& storage) const;
  void plan_trained(const LinearSpec& spec, const StorageOptions& storage, MemoryPlan& plan) const;
  // Weights and scales of a matrix of `numel` elements; their bytes.
  std::int64_t plan_stored(std::int64_t numel, const quant::QuantFormat& format, MemoryPlan& plan) const;
  // Factors [rank, in] and [out, rank] of this layer, their moments and gradients.
  void plan_factors(const LinearSpec& spec, std::int64_t rank, at::ScalarType dtype, MemoryPlan& plan) const;
  // Bytes of the rule's state for a parameter of this layer.
  std::int64_t moments_nbytes(const LinearSpec& spec, ParamRole role, std::vector<std::int64_t> sizes, bool sees_value = true) const;

  const RuleFactory& rules_;
  at::ScalarType param_dtype_;
  at::Device device_;
  std::uint64_t seed_;

 private:
  bool stays_dense(const StorageOptions& storage) const noexcept;
};

}  // namespace kumiko::lowrank
