// SPDX-License-Identifier: Apache-2.0
#include "lowrank/basis_sketch.hpp"

#include <algorithm>
#include <array>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::lowrank {
namespace {

// Rows of activations converted to fp32 at a time.
constexpr std::int64_t kRowChunk = 2048;

bool is_dense(BasisSolver solver) { return solver == BasisSolver::svd || solver == BasisSolver::eigh; }

at::Tensor random_normal(std::int64_t rows, std::int64_t columns, std::uint64_t seed, at::Device device) {
  at::Tensor values = at::empty({rows, columns}, at::kFloat);
  fill_normal(values, 1.0, seed);
  return values.to(device);
}

at::Tensor orthonormal(const at::Tensor& y) { return std::get<0>(at::linalg_qr(y, "reduced")).contiguous(); }

// NF4 is not symmetric in sign, so the sign of a singular vector, otherwise arbitrary, must be fixed.
at::Tensor canonical_signs(const at::Tensor& basis) {
  const at::Tensor peak = basis.gather(0, basis.abs().argmax(0, /*keepdim=*/true));
  return basis.mul(at::where(peak.lt(0), -1.0F, 1.0F)).contiguous();
}

FittedBasis leading(const at::Tensor& vectors, const at::Tensor& energies, std::int64_t rank) {
  const double total = energies.sum().item<double>();
  const at::Tensor leading = energies.narrow(0, 0, rank).to(at::kDouble).contiguous();
  const double kept = energies.narrow(0, 0, rank).sum().item<double>();
  const auto* first = leading.const_data_ptr<double>();
  return {canonical_signs(vectors.narrow(1, 0, rank)), total > 0.0 ? kept / total : 0.0, {first, first + rank}, total, std::nullopt};
}

}  // namespace

BasisOptions BasisOptions::parse(const ConfigNode& node) {
  constexpr std::array<std::pair<std::string_view, BasisSolver>, 4> kSolvers = {{{"range_finder", BasisSolver::range_finder},
                                                                                {"svd", BasisSolver::svd},
                                                                                {"eigh", BasisSolver::eigh},
                                                                                {"random", BasisSolver::random}}};
  BasisOptions options;
  options.solver = node.choice("solver", options.solver, kSolvers);
  options.oversampling = node.integer("oversampling", options.oversampling, {0, 4096});
  options.power_iterations = static_cast<int>(node.integer("power_iterations", options.power_iterations, {0, 16}));
  options.warm_start = node.boolean("warm_start", options.warm_start);
  options.group_memory_bytes = node.bytes("group_memory", "64MiB");
  return options;
}

BasisSketch::BasisSketch(std::int64_t in_features, std::int64_t out_features, Side side, std::int64_t rank, const BasisOptions& options,
                         const at::Tensor& old_basis, std::uint64_t seed, at::Device device)
    : in_(in_features), out_(out_features), side_(side), rank_(rank),
      width_(std::min(rank + options.oversampling, std::min(in_features, out_features))), options_(options),
      warm_(old_basis.defined() && options.warm_start && options.power_iterations > 0), seed_(seed), device_(device) {
  if (options_.looks_at_old && is_dense(options_.solver) && old_basis.defined()) old_basis_ = old_basis.to(at::kFloat);
  if (options_.solver != BasisSolver::range_finder) return;
  const std::int64_t basis_dim = Projector::basis_rows(side, in_features, out_features);
  if (warm_) {
    old_rank_ = old_basis.size(1);
    const at::Tensor fill = random_normal(basis_dim, width_ - old_rank_, seed_, device_);
    test_matrix_ = orthonormal(at::cat({old_basis.to(at::kFloat), fill}, 1));
  } else {
    test_matrix_ = random_normal(in_ + out_ - basis_dim, width_, seed_, device_);
  }
}

int BasisSketch::passes(const BasisOptions& options, bool has_old_basis) {
  switch (options.solver) {
    case BasisSolver::random: return 0;
    case BasisSolver::svd:
    case BasisSolver::eigh: return 1;
    case BasisSolver::range_finder: break;
  }
  const bool warm = has_old_basis && options.warm_start && options.power_iterations > 0;
  return 2 * options.power_iterations + (warm ? 0 : 1);
}

std::int64_t BasisSketch::nbytes_for(std::int64_t in_features, std::int64_t out_features, Side side, std::int64_t rank,
                                     const BasisOptions& options) {
  if (options.solver == BasisSolver::random) return 4 * rank * Projector::basis_rows(side, in_features, out_features);
  if (is_dense(options.solver)) return 4 * in_features * out_features;
  const std::int64_t width = std::min(rank + options.oversampling, std::min(in_features, out_features));
  return 4 * width * (in_features + out_features);
}

void BasisSketch::begin_pass(int pass) {
  const auto fp32 = at::TensorOptions().dtype(at::kFloat).device(device_);
  if (is_dense(options_.solver)) {
    accumulator_ = at::zeros({out_, in_}, fp32);
    return;
  }
  // Cold: G^T Omega, then pairs G Q, G^T Q. Warm: the pairs only.
  along_basis_ = warm_ ? pass % 2 == 1 : pass % 2 == 0;
  const std::int64_t basis_dim = Projector::basis_rows(side_, in_, out_);
  accumulator_ = at::zeros({along_basis_ ? basis_dim : in_ + out_ - basis_dim, width_}, fp32);
}

void BasisSketch::add(const at::Tensor& x, const at::Tensor& dy) {
  for (std::int64_t begin = 0; begin < x.size(0); begin += kRowChunk) {
    const std::int64_t count = std::min(kRowChunk, x.size(0) - begin);
    const at::Tensor x32 = x.narrow(0, begin, count).to(at::kFloat);
    const at::Tensor dy32 = dy.narrow(0, begin, count).to(at::kFloat);
    if (is_dense(options_.solver)) {
      accumulator_.addmm_(dy32.t(), x32);
      continue;
    }
    // The result lies in the features of `onto`, the test matrix in those of `from`.
    const bool onto_input = along_basis_ == (side_ == Side::input);
    const at::Tensor& onto = onto_input ? x32 : dy32;
    const at::Tensor& from = onto_input ? dy32 : x32;
    accumulator_.addmm_(onto.t(), at::mm(from, test_matrix_));
  }
}

void BasisSketch::end_pass(int pass) {
  if (options_.solver != BasisSolver::range_finder) return;
  if (pass + 1 == passes(options_, warm_)) return;   // the last range goes to finish()
  if (options_.looks_at_old && warm_ && pass == 0) old_energy_ = accumulator_.narrow(1, 0, old_rank_).square().sum(at::kDouble).item<double>();
  test_matrix_ = orthonormal(accumulator_);
  accumulator_ = at::Tensor();
}

void BasisSketch::receive_pass(int pass) {
  if (options_.solver != BasisSolver::range_finder || pass + 1 == passes(options_, warm_)) return;
  test_matrix_ = at::empty(accumulator_.sizes(), accumulator_.options());
  accumulator_ = at::Tensor();
}

FittedBasis BasisSketch::finish() {
  const std::int64_t basis_dim = Projector::basis_rows(side_, in_, out_);
  if (options_.solver == BasisSolver::random) {
    return {canonical_signs(orthonormal(random_normal(basis_dim, rank_, seed_, device_))), 0.0, {}, 0.0, std::nullopt};
  }
  if (options_.solver == BasisSolver::range_finder) {
    // accumulator = G^T Q with orthonormal Q: its left singular vectors are those of G restricted to range(Q).
    auto [q, r] = at::linalg_qr(accumulator_, "reduced");
    auto [u, s, vt] = at::linalg_svd(r, /*full_matrices=*/false);
    FittedBasis fitted = leading(at::mm(q, u.narrow(1, 0, rank_)), s.square(), rank_);
    fitted.old_energy = old_energy_;
    return fitted;
  }
  const at::Tensor in_basis_columns = side_ == Side::input ? accumulator_ : accumulator_.t();   // [other, dim]
  FittedBasis fitted;
  if (options_.solver == BasisSolver::svd) {
    auto [u, s, vt] = at::linalg_svd(in_basis_columns, /*full_matrices=*/false);
    fitted = leading(vt.t(), s.square(), rank_);
  } else {
    auto [values, vectors] = at::linalg_eigh(at::mm(in_basis_columns.t(), in_basis_columns));
    fitted = leading(vectors.flip(1), values.flip(0).clamp_min(0), rank_);
  }
  if (old_basis_.defined()) fitted.old_energy = at::mm(in_basis_columns, orthonormal(old_basis_)).square().sum(at::kDouble).item<double>();
  return fitted;
}

}  // namespace kumiko::lowrank
