// SPDX-License-Identifier: Apache-2.0
// Finds a basis of the gradient's dominant space without forming the gradient (range finder), or with it (svd, eigh).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lowrank/projector.hpp"

namespace kumiko {
class ConfigNode;
}

namespace kumiko::lowrank {

enum class BasisSolver { range_finder, svd, eigh, random };

struct BasisOptions {
  BasisSolver solver = BasisSolver::range_finder;
  std::int64_t oversampling = 16;
  int power_iterations = 1;
  bool warm_start = true;                              // begin from the old basis: one pass less
  std::int64_t group_memory_bytes = std::int64_t{64} << 20;   // sketches of a group of layers together, at least one layer
  bool looks_at_old = false;                           // no key: FittedBasis::old_energy is asked for

  static BasisOptions parse(const ConfigNode& node);   // the block `basis`
};

struct FittedBasis {
  at::Tensor basis;                // [dim, r], fp32, orthonormal columns, each column's largest entry positive
  double captured_energy = 0.0;    // |G P|^2 / |G|^2 for svd and eigh; for the range finder within the sketch; 0: unknown
  std::vector<double> energies;    // |G p_i|^2 of each column; empty: unknown
  double total_energy = 0.0;       // |G|^2, or that of the sketch; 0: unknown
  std::optional<double> old_energy;   // |G Q|^2 of the old basis' space; none: there is no old basis, or it was not looked at
};

// One layer's sketch. With G = dL/dW [out, in] = dy^T x, the range finder (Halko, Martinsson, Tropp 2011, alg. 4.4) needs
// products of G and G^T with thin matrices; each is one pass over the step's micro-batches, summed by the caller over ranks.
class BasisSketch {
 public:
  // old_basis: [dim, r] or undefined. `seed` names the random test matrix.
  BasisSketch(std::int64_t in_features, std::int64_t out_features, Side side, std::int64_t rank, const BasisOptions& options,
              const at::Tensor& old_basis, std::uint64_t seed, at::Device device);

  static int passes(const BasisOptions& options, bool has_old_basis);
  // Peak bytes of one sketch during a pass.
  static std::int64_t nbytes_for(std::int64_t in_features, std::int64_t out_features, Side side, std::int64_t rank,
                                 const BasisOptions& options);

  void begin_pass(int pass);
  // x [N, in], dy [N, out] in any floating dtype; products and sums are fp32.
  void add(const at::Tensor& x, const at::Tensor& dy);
  at::Tensor& accumulator() noexcept { return accumulator_; }
  // After the sum over micro-batches and ranks. On the rank that owns the layer; others take test_matrix() by broadcast.
  void end_pass(int pass);
  at::Tensor& test_matrix() noexcept { return test_matrix_; }
  // Allocates what end_pass would have made, for a rank that receives it.
  void receive_pass(int pass);
  FittedBasis finish();

 private:
  std::int64_t in_, out_;
  Side side_;
  std::int64_t rank_, width_;
  BasisOptions options_;
  bool warm_;
  std::uint64_t seed_;
  at::Device device_;
  bool along_basis_ = false;   // the running pass accumulates in the basis' dimension
  at::Tensor old_basis_;       // of dense solvers
  std::int64_t old_rank_ = 0;
  std::optional<double> old_energy_;
  at::Tensor test_matrix_;     // thin matrix of the running pass
  at::Tensor accumulator_;
};

}  // namespace kumiko::lowrank
