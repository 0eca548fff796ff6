// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "framework/model/adamw.hpp"
#include "framework/model/momentum_rule.hpp"

namespace kumiko {

// How lr becomes the step of a matrix with `out` outputs and `in` inputs: times sqrt(max(1, out / in)) (Jordan 2024), or times
// 0.2 sqrt(max(out, in)), whose updates are as large as AdamW's usually are (arXiv 2502.16982).
enum class MuonLr { original, match_rms_adamw };

// Keys of torch.optim.Muon, and ns_dtype.
struct MuonOptions {
  double momentum = 0.95;
  bool nesterov = true;
  int ns_steps = 5;
  std::array<double, 3> ns_coefficients = {3.4445, -4.7750, 2.0315};
  MuonLr adjust_lr_fn = MuonLr::original;
  at::ScalarType ns_dtype = at::kFloat;   // of the products: fp32 gives the same bits on any processor; bf16 is faster where it has such products

  static MuonOptions parse(const ConfigNode& node);
};

// Newton-Schulz iteration X <- a X + (b X X^T + c (X X^T)^2) X from matrix / |matrix|_F: nearly U V^T of matrix = U S V^T, with
// singular values of about 0.7 to 1.2 for the usual coefficients. matrix: two dimensions, fp32; so is the result.
at::Tensor orthogonalize(const at::Tensor& matrix, const MuonOptions& options);

// Muon (Jordan 2024; arXiv 2502.16982) with torch.optim.Muon's arithmetic, for a matrix or factor:
//   m = u m + (1-u) g;  direction orthogonalize(m), with nesterov of (1-u) g + u m, times the factor that adjust_lr_fn says.
class Muon final : public MomentumRule {
 public:
  Muon(const MuonOptions& options, const RuleSpec& spec);
  void apply(at::Tensor& value, at::Tensor& gradient, double lr, double weight_decay) override;

  static std::int64_t nbytes_for(std::int64_t numel) { return 4 * numel; }

 private:
  MuonOptions options_;
  int output_dim_;
};

// `muon`: matrices and factors by Muon; embedding, head and vectors by AdamW with betas and eps of the same block. Their learning
// rates stand to each other as optimizer.lr_scale says.
class MuonFactory final : public RuleFactory {
 public:
  explicit MuonFactory(const ConfigNode& node) : options_(MuonOptions::parse(node)), others_(AdamOptions::parse(node)) {}
  std::unique_ptr<UpdateRule> make_rule(const RuleSpec& spec) const override;
  std::int64_t rule_nbytes(const RuleSpec& spec) const override;

 private:
  MuonOptions options_;
  AdamOptions others_;
};

}  // namespace kumiko
