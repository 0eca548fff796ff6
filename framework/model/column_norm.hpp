// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "framework/model/adamw.hpp"
#include "framework/model/momentum_rule.hpp"

namespace kumiko {

// What a column's length becomes: root mean square 1 (the authors' code), or Euclidean length 1 (the paper's equation 4), which
// takes a learning rate larger by the square root of the number of inputs.
enum class ColumnLength { rms, euclidean };

// SCALE's normalisation (arXiv 2506.16659), in place. A column is what belongs to one output of the map: of W [out, in] a row
// (output_dim 0), of an embedding [vocabulary, hidden] the entries of one hidden dimension (output_dim 1). A column of zeros stays.
// matrix: two dimensions, fp32.
void column_normalize(at::Tensor& matrix, int output_dim, ColumnLength length);

struct ColumnNormOptions {
  double momentum = 0.0;   // 0: none is kept
  ColumnLength length = ColumnLength::rms;
};

// Column-normalised descent for a matrix (arXiv 2506.16659, algorithm 1):
//   m = b m + (1-b) g;  p = p (1 - lr wd) - lr columns(m);  without momentum m = g.
class ColumnNorm final : public MomentumRule {
 public:
  ColumnNorm(const ColumnNormOptions& options, const RuleSpec& spec);
  void apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) override;

  static std::int64_t nbytes_for(const ColumnNormOptions& options, std::int64_t numel) { return options.momentum > 0.0 ? 4 * numel : 0; }

 private:
  ColumnNormOptions options_;
  int output_dim_;
};

// `column_norm`: keys momentum (of matrices, factors and the embedding; 0), head_momentum (of the last layer: the head, or an embedding tied to it; 0.9), length (rms | euclidean), and
// betas, eps of AdamW, which moves the vectors. The defaults are SCALE's.
class ColumnNormFactory final : public RuleFactory {
 public:
  explicit ColumnNormFactory(const ConfigNode& node);
  std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const override;
  std::int64_t rule_nbytes(const RuleSpec& spec) const override;

 private:
  const ColumnNormOptions& options_of(const RuleSpec& spec) const noexcept { return spec.is_last_layer ? head_ : matrices_; }

  ColumnNormOptions matrices_, head_;
  AdamOptions vectors_;
};

}  // namespace kumiko
