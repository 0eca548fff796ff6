// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/adamw.hpp"
#include "quant/int8_state.hpp"

namespace kumiko {

// AdamW whose moments are kept in 8 bits by blocks of 256 (arXiv 2110.02861; the arithmetic of bitsandbytes, see
// quant/int8_state.hpp). A new basis maps the moments in fp32.
class Adam8bit final : public UpdateRule {
 public:
  Adam8bit(const AdamOptions& options, const RuleSpec& spec);
  void apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) override;
  void forget() override { resize(first_.sizes().vec()); }
  void transform(const MomentMap& map) override;
  void resize(at::IntArrayRef sizes) override;
  double bias_correction() const override { return options_.bias_correction(step_.item<double>()); }
  std::vector<at::Tensor> state_tensors() override;
  std::int64_t state_nbytes() const override { return nbytes_for(first_.numel()); }
  void save(StateWriter& out) const override;
  void load(const StateReader& in) override;

  static std::int64_t nbytes_for(std::int64_t numel) { return 2 * quant::Int8State::nbytes_for(numel) + 4; }

 private:
  AdamOptions options_;
  quant::Int8State first_, second_;
  at::Tensor step_;   // [], fp32; exact up to 2^24
};

// `adam8bit`: keys of AdamOptions, and min_8bit_size: a parameter with fewer elements keeps its moments in fp32, as with bitsandbytes.
class Adam8bitFactory final : public RuleFactory {
 public:
  explicit Adam8bitFactory(const ConfigNode& node);
  std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const override;
  std::int64_t rule_nbytes(const RuleSpec& spec) const override;

 private:
  AdamOptions options_;
  std::int64_t min_8bit_size_;
};

}  // namespace kumiko
