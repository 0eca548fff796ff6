// SPDX-License-Identifier: Apache-2.0
#include "lowrank/basis_sketch.hpp"

#include <optional>

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "tests/lowrank/lowrank_test_support.hpp"

namespace kumiko::lowrank {
namespace {

using test::best_energy;
using test::energy;
using test::normal;
using test::orthonormal_columns;
using test::power_law;
using test::relative;
using ::testing::HasSubstr;

struct Batch {
  at::Tensor x, dy;  // [N, in], [N, out]
};

// Activations and output gradients whose dy^T x is G: dy = A, x = A G with A^T A = I.
Batch batch_of(const at::Tensor& gradient, std::int64_t extra_rows = 7) {
  const std::int64_t out = gradient.size(0);
  const at::Tensor a = orthonormal_columns(out + extra_rows, out, 99);
  return {at::mm(a, gradient), a};
}

// A whole probe of one layer, its rows given in `pieces` calls.
FittedBasis fit(const Batch& batch, Side side, std::int64_t rank, const BasisOptions& options,
                const at::Tensor& old = {}, std::int64_t pieces = 1, std::uint64_t seed = 5) {
  BasisSketch sketch(batch.x.size(1), batch.dy.size(1), side, rank, options, old, seed, at::kCPU);
  const int passes = BasisSketch::passes(options, old.defined());
  for (int pass = 0; pass < passes; ++pass) {
    sketch.begin_pass(pass);
    const auto xs = batch.x.chunk(pieces, 0);
    const auto dys = batch.dy.chunk(pieces, 0);
    for (std::size_t i = 0; i < xs.size(); ++i) sketch.add(xs[i], dys[i]);
    if (pass + 1 < passes) sketch.end_pass(pass);
  }
  return sketch.finish();
}

// What a probe says of the basis that stood before it.
TEST(OldEnergy, IsWhatTheOldBasisHoldsOfTheGradient) {
  const at::Tensor g = power_law(24, 40, 0.7, 3);   // [out, in]
  for (const Side side : {Side::input, Side::output}) {
    const at::Tensor old = orthonormal_columns(side == Side::input ? 40 : 24, 6, 11) * 0.5;   // any length: only its space counts
    const double expected = energy(g, old * 2.0, side) * g.square().sum().item<double>();
    for (const char* solver : {"{solver: svd}", "{solver: eigh}", "{solver: range_finder}"}) {
      auto options = BasisOptions::parse(ConfigNode::parse_text(solver, "test"));
      EXPECT_FALSE(fit(batch_of(g), side, 8, options, old).old_energy.has_value()) << solver;
      options.looks_at_old = true;
      const FittedBasis fitted = fit(batch_of(g), side, 8, options, old, 3);
      ASSERT_TRUE(fitted.old_energy.has_value()) << solver;
      EXPECT_NEAR(*fitted.old_energy, expected, 1e-5 * expected) << solver;
      EXPECT_FALSE(fit(batch_of(g), side, 8, options).old_energy.has_value()) << solver;
    }
  }
}

TEST(Energies, AreThoseOfTheDirectionsThatWereKept) {
  const at::Tensor g = power_law(24, 40, 0.7, 3);
  const at::Tensor squares = at::linalg_svdvals(g.to(at::kDouble)).square();
  for (const char* solver : {"{solver: svd}", "{solver: eigh}"}) {
    const FittedBasis fitted = fit(batch_of(g), Side::output, 8, BasisOptions::parse(ConfigNode::parse_text(solver, "test")));
    ASSERT_EQ(fitted.energies.size(), 8U);
    for (std::int64_t i = 0; i < 8; ++i) EXPECT_NEAR(fitted.energies[static_cast<std::size_t>(i)], squares[i].item<double>(), 1e-5);
    EXPECT_NEAR(fitted.total_energy, squares.sum().item<double>(), 1e-5);
  }
}

at::Tensor span(const at::Tensor& basis) { return at::mm(basis, basis.t()); }

void expect_well_formed(const at::Tensor& basis, std::int64_t dim, std::int64_t rank) {
  ASSERT_EQ(basis.sizes(), at::IntArrayRef({dim, rank}));
  EXPECT_EQ(basis.scalar_type(), at::kFloat);
  EXPECT_LT(at::norm(at::mm(basis.t(), basis) - at::eye(rank)).item<double>(), 1e-4);
  for (std::int64_t j = 0; j < rank; ++j) {
    const at::Tensor column = basis.select(1, j);
    EXPECT_GT(column[column.abs().argmax().item<std::int64_t>()].item<float>(), 0.0F) << "column " << j;
  }
}

struct Case {
  const char* name;
  Side side;
  std::int64_t in, out;
  std::int64_t dim() const { return side == Side::input ? in : out; }
};

class Sides : public ::testing::TestWithParam<Case> {
 protected:
  Sides() { at::set_num_threads(1); }  // products this small gain nothing from more
  at::Tensor gradient(double power) const { return power_law(GetParam().out, GetParam().in, power, 21); }
  Side side() const { return GetParam().side; }
};

TEST_P(Sides, AllSolversGiveOrthonormalColumnsWithCanonicalSigns) {
  for (const auto solver :
       {BasisSolver::range_finder, BasisSolver::svd, BasisSolver::eigh, BasisSolver::random}) {
    SCOPED_TRACE(static_cast<int>(solver));
    expect_well_formed(fit(batch_of(gradient(1.0)), side(), 12, {.solver = solver}).basis, GetParam().dim(),
                       12);
  }
}

// |P^T G|^2 / |G|^2 = sum of the r largest sigma^2 / sum of all sigma^2.
TEST_P(Sides, SvdAndEighKeepTheMostEnergy) {
  const at::Tensor g = gradient(0.7);
  for (const auto solver : {BasisSolver::svd, BasisSolver::eigh}) {
    const FittedBasis fitted = fit(batch_of(g), side(), 12, {.solver = solver});
    EXPECT_NEAR(energy(g, fitted.basis, side()), best_energy(g, 12), 1e-5);
    EXPECT_NEAR(fitted.captured_energy, best_energy(g, 12), 1e-4);
  }
}

TEST_P(Sides, SvdAndEighSpanTheSameSpace) {
  const Batch batch = batch_of(gradient(1.0));
  const at::Tensor svd = fit(batch, side(), 12, {.solver = BasisSolver::svd}).basis;
  const at::Tensor eigh = fit(batch, side(), 12, {.solver = BasisSolver::eigh}).basis;
  EXPECT_LT(relative(span(eigh), span(svd)), 1e-3);
}

TEST_P(Sides, SvdEqualsThatOfTheDenseGradientInFp64) {
  const at::Tensor g = gradient(1.0);
  const auto [u, s, vt] = at::linalg_svd(g.to(at::kDouble), false);
  const at::Tensor exact = (side() == Side::input ? vt.t() : u).narrow(1, 0, 12);
  EXPECT_LT(relative(span(fit(batch_of(g), side(), 12, {.solver = BasisSolver::svd}).basis), span(exact)),
            1e-3);
}

TEST_P(Sides, RangeFinderWithOnePowerIterationKeeps98PercentOfTheBestEnergy) {
  for (const double power : {0.5, 0.75, 1.0, 2.0}) {
    const at::Tensor g = gradient(power);
    const double best = best_energy(g, 12);
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      const double kept =
          energy(g, fit(batch_of(g), side(), 12, {.power_iterations = 1}, {}, 1, seed).basis, side());
      EXPECT_GE(kept, 0.98 * best) << "power " << power << ", seed " << seed;
      EXPECT_LE(kept, best * (1.0 + 1e-5));
    }
  }
}

// Halko, Martinsson and Tropp: power iterations sharpen the range; a random basis keeps about rank / dim.
TEST_P(Sides, MorePowerIterationsKeepMoreAndARandomBasisAlmostNothing) {
  const at::Tensor g = gradient(0.5);
  const auto kept = [&](const BasisOptions& options) {
    return energy(g, fit(batch_of(g), side(), 12, options).basis, side());
  };
  const double none = kept({.oversampling = 0, .power_iterations = 0});
  const double one = kept({.oversampling = 0, .power_iterations = 1});
  const double three = kept({.oversampling = 0, .power_iterations = 3});
  EXPECT_LT(none, one);
  EXPECT_LT(one, three);
  EXPECT_LT(kept({.solver = BasisSolver::random}), 0.75 * none);
}

TEST_P(Sides, OversamplingKeepsMore) {
  const at::Tensor g = gradient(0.5);
  const auto kept = [&](std::int64_t extra) {
    return energy(g, fit(batch_of(g), side(), 12, {.oversampling = extra, .power_iterations = 0}).basis,
                  side());
  };
  EXPECT_LT(kept(0), kept(16));
}

TEST_P(Sides, FullRankIsCapturedWhollyByEverySolver) {
  const at::Tensor g = gradient(0.5);
  for (const auto solver :
       {BasisSolver::range_finder, BasisSolver::svd, BasisSolver::eigh, BasisSolver::random}) {
    const at::Tensor basis = fit(batch_of(g), side(), GetParam().dim(), {.solver = solver}).basis;
    EXPECT_NEAR(energy(g, basis, side()), 1.0, 1e-5) << static_cast<int>(solver);
    expect_well_formed(basis, GetParam().dim(), GetParam().dim());
  }
}

// An old basis near the new space stands in for the first product.
TEST_P(Sides, WarmStartTakesOnePassLessAndKeepsTheEnergy) {
  const at::Tensor g = gradient(0.75);
  const at::Tensor drifted =
      g + 0.2 * at::norm(g) / at::norm(gradient(0.1)) * power_law(GetParam().out, GetParam().in, 0.1, 77);
  const at::Tensor old = fit(batch_of(drifted), side(), 12, {.solver = BasisSolver::svd}).basis;
  const BasisOptions options{.power_iterations = 1};
  EXPECT_EQ(BasisSketch::passes(options, false), 3);
  EXPECT_EQ(BasisSketch::passes(options, true), 2);
  const at::Tensor warm = fit(batch_of(g), side(), 12, options, old).basis;
  expect_well_formed(warm, GetParam().dim(), 12);
  EXPECT_GE(energy(g, warm, side()), 0.98 * best_energy(g, 12));
  EXPECT_GT(energy(g, warm, side()), energy(g, old, side()));
}

// Even where the old basis is useless: the fill and the power iteration find the new space.
TEST_P(Sides, WarmStartRecoversFromABasisOfAnotherSpace) {
  const at::Tensor g = gradient(1.0);
  const auto [u, s, vt] = at::linalg_svd(g.to(at::kDouble), false);
  const at::Tensor all = side() == Side::input ? vt.t() : u;
  const at::Tensor orthogonal = all.narrow(1, GetParam().dim() - 12, 12).to(at::kFloat);
  ASSERT_LT(energy(g, orthogonal, side()), 0.02);
  const at::Tensor warm =
      fit(batch_of(g), side(), 12, {.oversampling = 12, .power_iterations = 1}, orthogonal).basis;
  EXPECT_GT(energy(g, warm, side()), 0.9 * best_energy(g, 12));
}

TEST_P(Sides, WithoutWarmStartAnOldBasisIsIgnored) {
  const Batch batch = batch_of(gradient(0.75));
  const at::Tensor old = orthonormal_columns(GetParam().dim(), 12, 3);
  const BasisOptions cold{.warm_start = false};
  EXPECT_EQ(BasisSketch::passes(cold, true), 3);
  EXPECT_TRUE(at::equal(fit(batch, side(), 12, cold, old).basis, fit(batch, side(), 12, cold).basis));
}

TEST_P(Sides, SeveralMicroBatchesGiveTheBasisOfTheirSum) {
  const Batch batch = batch_of(gradient(1.0));
  for (const auto solver : {BasisSolver::range_finder, BasisSolver::svd, BasisSolver::eigh}) {
    const at::Tensor whole = fit(batch, side(), 8, {.solver = solver}).basis;
    const at::Tensor pieces = fit(batch, side(), 8, {.solver = solver}, {}, 5).basis;
    EXPECT_LT(relative(span(pieces), span(whole)), 2e-3) << static_cast<int>(solver);
  }
}

// More rows than are converted to fp32 at a time: the last ones count as the first do.
TEST_P(Sides, ManyRowsAreSummedWhole) {
  const Batch batch{normal({5000, GetParam().in}, 1), normal({5000, GetParam().out}, 2)};
  const at::Tensor g = at::mm(batch.dy.to(at::kDouble).t(), batch.x.to(at::kDouble));
  BasisSketch dense(GetParam().in, GetParam().out, side(), 12, {.solver = BasisSolver::svd}, {}, 5, at::kCPU);
  dense.begin_pass(0);
  dense.add(batch.x, batch.dy);
  EXPECT_LT(relative(dense.accumulator(), g), 1e-5);
  BasisSketch thin(GetParam().in, GetParam().out, side(), 12, {}, {}, 5, at::kCPU);
  thin.begin_pass(0);
  thin.add(batch.x, batch.dy);
  const at::Tensor test_matrix = thin.test_matrix().to(at::kDouble);
  EXPECT_LT(relative(thin.accumulator(), at::mm(side() == Side::input ? g.t() : g, test_matrix)), 1e-5);
}

TEST_P(Sides, Bf16ActivationsGiveNearlyTheSameSpace) {
  const at::Tensor g = gradient(0.75);
  const Batch batch = batch_of(g);
  const Batch low{batch.x.to(at::kBFloat16), batch.dy.to(at::kBFloat16)};
  EXPECT_GE(energy(g, fit(low, side(), 12, {}).basis, side()), 0.98 * best_energy(g, 12));
}

TEST_P(Sides, ARankDeficientGradientStillGivesAWholeBasis) {
  const at::Tensor g = power_law(GetParam().out, GetParam().in, 0.5, 21, /*rank=*/4);
  for (const auto solver : {BasisSolver::range_finder, BasisSolver::svd, BasisSolver::eigh}) {
    SCOPED_TRACE(static_cast<int>(solver));
    const FittedBasis fitted = fit(batch_of(g), side(), 12, {.solver = solver});
    expect_well_formed(fitted.basis, GetParam().dim(), 12);
    EXPECT_NEAR(energy(g, fitted.basis, side()), 1.0, 1e-4);
    EXPECT_NEAR(fitted.captured_energy, 1.0, 1e-4);
  }
}

TEST_P(Sides, AZeroGradientGivesABasisAndNoEnergy) {
  const Batch zero{at::zeros({10, GetParam().in}), at::zeros({10, GetParam().out})};
  for (const auto solver : {BasisSolver::range_finder, BasisSolver::svd, BasisSolver::eigh}) {
    SCOPED_TRACE(static_cast<int>(solver));
    const FittedBasis fitted = fit(zero, side(), 12, {.solver = solver});
    expect_well_formed(fitted.basis, GetParam().dim(), 12);
    EXPECT_EQ(fitted.captured_energy, 0.0);
  }
}

TEST_P(Sides, AReceivedTestMatrixContinuesAsOnTheOwner) {
  const Batch batch = batch_of(gradient(0.75));
  const BasisOptions options;
  BasisSketch owner(GetParam().in, GetParam().out, side(), 12, options, {}, 5, at::kCPU);
  BasisSketch other(GetParam().in, GetParam().out, side(), 12, options, {}, 5, at::kCPU);
  for (int pass = 0; pass < 3; ++pass) {
    for (BasisSketch* sketch : {&owner, &other}) {
      sketch->begin_pass(pass);
      sketch->add(batch.x, batch.dy);
    }
    EXPECT_TRUE(at::equal(owner.accumulator(), other.accumulator())) << pass;
    if (pass == 2) break;
    owner.end_pass(pass);
    other.receive_pass(pass);
    ASSERT_EQ(other.test_matrix().sizes(), owner.test_matrix().sizes());
    other.test_matrix().copy_(owner.test_matrix());
  }
}

TEST_P(Sides, HoldsDuringAPassTheBytesItSays) {
  for (const auto solver : {BasisSolver::range_finder, BasisSolver::svd}) {
    const BasisOptions options{.solver = solver};
    const std::int64_t said = BasisSketch::nbytes_for(GetParam().in, GetParam().out, side(), 12, options);
    BasisSketch sketch(GetParam().in, GetParam().out, side(), 12, options, {}, 5, at::kCPU);
    sketch.begin_pass(0);
    const std::int64_t test_matrix =
        sketch.test_matrix().defined() ? static_cast<std::int64_t>(sketch.test_matrix().nbytes()) : 0;
    EXPECT_EQ(said, static_cast<std::int64_t>(sketch.accumulator().nbytes()) + test_matrix);
  }
}

INSTANTIATE_TEST_SUITE_P(BasisSketch, Sides,
                         ::testing::Values(Case{"input", Side::input, 96, 150},
                                           Case{"output", Side::output, 171, 88},
                                           Case{"square", Side::input, 64, 64}),
                         [](const auto& info) { return info.param.name; });

TEST(BasisSketch, RandomBasesFollowTheSeed) {
  const auto random = [](std::uint64_t seed) {
    return BasisSketch(40, 60, Side::input, 8, {.solver = BasisSolver::random}, {}, seed, at::kCPU)
        .finish()
        .basis;
  };
  EXPECT_TRUE(at::equal(random(1), random(1)));
  EXPECT_GT(relative(span(random(2)), span(random(1))), 0.5);
  EXPECT_EQ(BasisSketch::passes({.solver = BasisSolver::random}, false), 0);
  EXPECT_EQ(BasisSketch::passes({.solver = BasisSolver::svd}, true), 1);
}

TEST(BasisOptions, AreReadFromARecipe) {
  const auto node = ConfigNode::parse_text(
      "{solver: eigh, oversampling: 3, power_iterations: 2, warm_start: false, group_memory: 2KiB}",
      "r.yaml");
  const BasisOptions options = BasisOptions::parse(node);
  node.finish();
  EXPECT_EQ(options.solver, BasisSolver::eigh);
  EXPECT_EQ(options.oversampling, 3);
  EXPECT_EQ(options.power_iterations, 2);
  EXPECT_FALSE(options.warm_start);
  EXPECT_EQ(options.group_memory_bytes, 2048);
  const BasisOptions defaults = BasisOptions::parse(ConfigNode::parse_text("{}", "r.yaml"));
  EXPECT_EQ(defaults.solver, BasisSolver::range_finder);
  EXPECT_EQ(defaults.group_memory_bytes, std::int64_t{64} << 20);
}

TEST(BasisOptions, RefuseBadRecipesAtTheirKey) {
  const auto refusal = [](const char* yaml) {
    return test::message_of<UsageError>([&] { BasisOptions::parse(ConfigNode::parse_text(yaml, "r.yaml")); });
  };
  EXPECT_THAT(refusal("{solver: svdd}"),
              ::testing::AllOf(HasSubstr("solver"), HasSubstr("svdd"), HasSubstr("range_finder")));
  EXPECT_THAT(refusal("{power_iterations: -1}"), HasSubstr("power_iterations"));
  EXPECT_THAT(refusal("{group_memory: lots}"), HasSubstr("lots"));
}

}  // namespace
}  // namespace kumiko::lowrank
