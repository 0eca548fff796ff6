// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "lowrank/methods/galore.hpp"
#include "tests/lowrank/lowrank_test_support.hpp"
#include "tests/support/reference_llama.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko::lowrank {
namespace {

using kumiko::test::Batches;
using kumiko::test::expect_same_report;
using kumiko::test::expect_same_state;
using kumiko::test::Rig;
using kumiko::test::RigOptions;
using kumiko::test::TinyRun;
using kumiko::test::Weights;
using test::relative;

constexpr const char* kExact = "{rank: 8, basis: {solver: svd}, schedule: {kind: static, tau: 3}}";
constexpr const char* kLazy =
    "{rank: 8, schedule: {kind: static, tau: 2}, refresh: {kind: lazy, similarity: 0.0, window: 2}}";

std::vector<GaloreLinear*> galore_layers(TinyRun& run) {
  std::vector<GaloreLinear*> layers;
  for (Linear* linear : run.model->linears()) {
    if (auto* layer = dynamic_cast<GaloreLinear*>(linear)) layers.push_back(layer);
  }
  return layers;
}

bool is_linear(const std::string& name) { return name.ends_with("_proj"); }

// GaLore's algorithm 2 with AdamW as the paper writes them, on dense gradients of the textbook model, in
// fp64.
class TextbookGalore {
 public:
  TextbookGalore(Rig& rig, double lr, double decay)
      : options_(rig.run.model->options()), lr_(lr), decay_(decay) {
    for (Parameter* p : rig.run.model->parameters()) {
      if (p->value.defined()) weights_[p->name] = p->value.to(at::kDouble, false, true);
    }
    for (Linear* linear : rig.run.model->linears()) {
      weights_[linear->spec().name] = linear->effective_weight().to(at::kDouble, false, true);
    }
  }
  const Weights& weights() const { return weights_; }

  void step(std::int64_t step, const Batches& batches) {
    for (auto& [name, weight] : weights_) weight = weight.detach().set_requires_grad(true);
    std::int64_t tokens = 0;
    for (const auto& batch : batches) tokens += batch.target_count;
    for (const auto& batch : batches) {
      const at::Tensor loss =
          kumiko::test::reference_loss_sum(options_, weights_, batch.tokens, batch.targets);
      (loss / static_cast<double>(tokens)).backward();
    }
    for (auto& [name, weight] : weights_) {
      const at::Tensor gradient = weight.grad();
      weight = weight.detach();
      if (!is_linear(name)) {
        weight = weight - lr_ * direction(name, gradient, step);
        continue;
      }
      const bool right = gradient.size(0) >= gradient.size(1);
      if (step % 3 == 0) basis_[name] = singular_vectors(gradient, right);
      const at::Tensor& p = basis_.at(name);
      const at::Tensor r = direction(name, right ? at::mm(gradient, p) : at::mm(p.t(), gradient), step);
      weight = (1.0 - lr_ * decay_) * weight - lr_ * 0.25 * (right ? at::mm(r, p.t()) : at::mm(p, r));
    }
  }

 private:
  static at::Tensor singular_vectors(const at::Tensor& gradient, bool right) {
    const auto [u, s, vt] = at::linalg_svd(gradient, false);
    at::Tensor p = (right ? vt.t() : u).narrow(1, 0, 8).clone();
    for (std::int64_t j = 0; j < 8; ++j) {  // a singular vector has no sign: the largest entry is positive
      at::Tensor column = p.select(1, j);
      if (column[column.abs().argmax()].item<double>() < 0.0) column.neg_();
    }
    return p;
  }
  at::Tensor direction(const std::string& name, const at::Tensor& g, std::int64_t step) {
    auto& [m, v] = moments_[name];
    if (!m.defined()) {
      m = at::zeros_like(g);
      v = at::zeros_like(g);
    }
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    const double t = static_cast<double>(step + 1);
    return m / (1 - std::pow(0.9, t)) / ((v / (1 - std::pow(0.999, t))).sqrt() + 1e-6);
  }

  ModelOptions options_;
  double lr_, decay_;
  Weights weights_;
  std::map<std::string, at::Tensor> basis_;
  std::map<std::string, std::pair<at::Tensor, at::Tensor>> moments_;
};

TEST(Galore, EqualsTheTextbookThroughThreeRefreshes) {
  RigOptions options{.method = "galore", .method_yaml = kExact};
  options.optimizer_yaml = "{weight_decay: 0.1}";
  Rig rig(options);
  const double lr = 0.01;
  TextbookGalore textbook(rig, lr, 0.1);
  const Weights start = textbook.weights();
  for (std::int64_t step = 0; step < 8; ++step) {
    const StepReport report = rig.trainer.step();
    EXPECT_EQ(report.probe, step % 3 == 0);
    EXPECT_TRUE(report.update);
    textbook.step(step, kumiko::test::four_micro_batches(step));
    for (Linear* linear : rig.run.model->linears()) {
      const at::Tensor& expected = textbook.weights().at(linear->spec().name);
      const at::Tensor& from = start.at(linear->spec().name);
      EXPECT_LT(relative(linear->effective_weight().to(at::kDouble) - from, expected - from), 1e-4)
          << linear->spec().name << ", step " << step;
    }
  }
}

// The loss of a refresh's step is counted once, and its update uses the new basis at once.
TEST(Galore, RefreshesAndUpdatesInOneStep) {
  Rig rig({.method = "galore", .method_yaml = kExact});
  for (std::int64_t step = 0; step < 7; ++step) {
    std::vector<at::Tensor> before, bases;
    for (GaloreLinear* layer : galore_layers(rig.run)) {
      before.push_back(layer->effective_weight().clone());
      bases.push_back(layer->has_projector() ? layer->projector().basis(at::kFloat).clone() : at::Tensor());
    }
    const StepReport report = rig.trainer.step();
    EXPECT_FALSE(report.skipped);
    EXPECT_FALSE(report.method.merged);
    EXPECT_GT(report.grad_norm, 0.0);
    const auto layers = galore_layers(rig.run);
    EXPECT_EQ(report.method.layers.size(), step % 3 == 0 ? layers.size() : 0U);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      EXPECT_FALSE(at::equal(layers[i]->effective_weight(), before[i]));
      const at::Tensor basis = layers[i]->projector().basis(at::kFloat);
      EXPECT_EQ(bases[i].defined() && at::equal(basis, bases[i]), step % 3 != 0) << step;
      // All movement is in the space of the basis: nothing is left without it.
      const at::Tensor moved = layers[i]->effective_weight() - before[i];
      const at::Tensor rest = layers[i]->side() == Side::input
                                  ? moved - at::mm(at::mm(moved, basis), basis.t())
                                  : moved - at::mm(basis, at::mm(basis.t(), moved));
      EXPECT_LT(at::norm(rest).item<double>(), 1e-3 * at::norm(moved).item<double>());
    }
  }
}

TEST(Galore, ReportsTheEnergyThatEachLayersBasisCaptures) {
  Rig rig({.method = "galore", .method_yaml = kExact});
  const StepReport report = rig.trainer.step();
  double sum = 0.0;
  ASSERT_EQ(report.method.layers.size(), 14U);
  for (const LayerReport& layer : report.method.layers) {
    ASSERT_TRUE(layer.captured_energy.has_value()) << layer.name;
    EXPECT_GT(*layer.captured_energy, 0.25);
    EXPECT_LE(*layer.captured_energy, 1.0);
    EXPECT_FALSE(layer.retained_update.has_value());
    sum += *layer.captured_energy;
  }
  EXPECT_NEAR(report.method.captured_energy, sum / 14.0, 1e-12);
}

TEST(Galore, IsDueAtEveryMultipleUpToTheEnd) {
  Rig rig({.method = "galore", .method_yaml = "{rank: 8, schedule: {tau: 10}}", .train = {.steps = 31}});
  for (std::int64_t step = 0; step < 31; ++step) {
    EXPECT_EQ(rig.trainer.step().probe, step % 10 == 0) << step;
  }
}

class GaloreMoments : public ::testing::TestWithParam<const char*> {};

TEST_P(GaloreMoments, AreKeptResetOrRotatedAtARefresh) {
  const std::string mode = GetParam();
  RigOptions options{
      .method = "galore",
      .method_yaml = concat("{rank: 8, moments: ", mode, ", schedule: {kind: static, tau: 3}}")};
  Rig rig(options);
  rig.steps(3);
  GaloreLinear* layer = galore_layers(rig.run).at(1);
  const at::Tensor old_basis = layer->projector().basis(at::kFloat).to(at::kDouble);
  std::vector<at::Tensor> before;
  for (const auto& tensor : rig.run.optimizer->state_tensors(layer->param_name()))
    before.push_back(tensor.to(at::kDouble, false, true));
  // The probe of step 3 alone.
  const auto batches = kumiko::test::four_micro_batches(3);
  rig.run.probe(3, batches[0].tokens, batches[0].targets, *rig.solo);
  const at::Tensor turn = at::mm(layer->projector().basis(at::kFloat).to(at::kDouble).t(), old_basis);
  const bool input = layer->side() == Side::input;
  for (std::size_t i = 0; i < 2; ++i) {  // m and v
    ASSERT_GT(at::norm(before[i]).item<double>(), 0.0);
    const at::Tensor map = i == 1 ? turn * turn : turn;
    at::Tensor expected = before[i];
    if (mode == "reset") expected = at::zeros_like(expected);
    if (mode == "rotate") expected = input ? at::mm(map, before[i]) : at::mm(before[i], map.t());
    const at::Tensor got = rig.run.optimizer->state_tensors(layer->param_name())[i].to(at::kDouble);
    EXPECT_LT(at::norm(got - expected).item<double>(), 1e-5 * at::norm(before[i]).item<double>()) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, GaloreMoments, ::testing::Values("keep", "reset", "rotate"),
                         [](const auto& info) { return info.param; });

TEST(Galore, ThatMeetsNonFiniteNumbersAtItsFirstProbeTriesAgainAtTheNextStep) {
  Rig rig({.method = "galore", .method_yaml = "{rank: 8}"});
  at::Tensor embedding = rig.run.parameters().at("model.embed_tokens.weight")->value;
  const at::Tensor good = embedding.clone();
  embedding.fill_(std::numeric_limits<float>::quiet_NaN());
  const at::Tensor before = galore_layers(rig.run)[0]->effective_weight().clone();
  EXPECT_TRUE(rig.trainer.step().skipped);
  EXPECT_FALSE(galore_layers(rig.run)[0]->has_projector());
  EXPECT_TRUE(at::equal(galore_layers(rig.run)[0]->effective_weight(), before));
  embedding.copy_(good);
  const StepReport report = rig.trainer.step();
  EXPECT_TRUE(report.probe);
  EXPECT_FALSE(report.skipped);
  EXPECT_FALSE(rig.trainer.step().probe);
}

// Similarity 0: each layer's stride doubles once its window is full, and from then on at each of its
// refreshes.
TEST(Galore, RefreshesLazilyWhereBasesHardlyTurn) {
  Rig rig({.method = "galore", .method_yaml = kLazy});
  std::vector<std::int64_t> refreshed;
  for (std::int64_t step = 0; step < 40; ++step) {
    if (rig.trainer.step().method.layers.size() == 14U) refreshed.push_back(step);
  }
  // The schedule's refreshes 0, 1, 2 fill the window; then strides of 2, 4, 8, 16, due at their multiples.
  EXPECT_EQ(refreshed, (std::vector<std::int64_t>{0, 2, 4, 8, 16, 32}));

  Rig eager({.method = "galore",
             .method_yaml = "{rank: 8, schedule: {kind: static, tau: 2}, "
                            "refresh: {kind: lazy, similarity: 1.0, window: 1}}"});
  for (std::int64_t step = 0; step < 10; ++step)
    EXPECT_EQ(eager.trainer.step().method.layers.size(), step % 2 == 0 ? 14U : 0U);
}

// At some thresholds a part of the layers is due: a probe of a part of them.
TEST(Galore, RefreshesEachLayerAtItsOwnPace) {
  RigOptions options{.method = "galore",
                     .method_yaml =
                         "{rank: 8, schedule: {kind: static, tau: 1}, "
                         "refresh: {kind: lazy, similarity: 0.3, window: 2}}"};
  Rig rig(options);
  bool some = false;
  for (std::int64_t step = 0; step < 16; ++step) {
    std::vector<at::Tensor> bases;
    for (GaloreLinear* layer : galore_layers(rig.run))
      bases.push_back(layer->has_projector() ? layer->projector().basis(at::kFloat).clone() : at::Tensor());
    const StepReport report = rig.trainer.step();
    std::set<std::string> named;
    for (const auto& layer : report.method.layers) named.insert(layer.name);
    const auto layers = galore_layers(rig.run);
    some = some || (!named.empty() && named.size() < layers.size());
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const bool kept = bases[i].defined() && at::equal(layers[i]->projector().basis(at::kFloat), bases[i]);
      EXPECT_EQ(kept, !named.contains(layers[i]->spec().name)) << layers[i]->spec().name << ", step " << step;
    }
  }
  EXPECT_TRUE(some);
}

struct Broken {
  const char* name;
  const char* method;
  const char* yaml;
  at::ScalarType param_dtype = at::kFloat;
  bool per_layer = false;
  const char* optimizer = "";
};

class GaloreResume : public ::testing::TestWithParam<Broken> {};

TEST_P(GaloreResume, GoesOnAsAnUnbrokenRunBitForBit) {
  RigOptions options{
      .method = GetParam().method, .method_yaml = GetParam().yaml, .optimizer_yaml = GetParam().optimizer};
  options.train.param_dtype = GetParam().param_dtype;
  options.train.per_layer_updates = GetParam().per_layer;
  Rig unbroken(options);
  std::vector<kumiko::test::MemoryState> states;
  std::vector<StepReport> reports;
  for (int i = 0; i < 12; ++i) {
    states.push_back(unbroken.state());
    reports.push_back(unbroken.trainer.step());
  }
  for (const std::size_t at : {1U, 4U, 5U, 9U}) {
    SCOPED_TRACE(concat("broken at ", at));
    Rig resumed(options);
    if (at == 5U) resumed.steps(9);  // nothing may be left of what was there
    resumed.trainer.load(states[at]);
    expect_same_state(resumed.state(), states[at]);
    for (std::size_t i = at; i < 12; ++i) expect_same_report(resumed.trainer.step(), reports[i]);
    expect_same_state(resumed.state(), unbroken.state());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Runs, GaloreResume,
    ::testing::Values(Broken{"plain", "galore", "{rank: 8, schedule: {tau: 4}}"},
                      Broken{"rotated_bf16", "galore", "{rank: 8, moments: rotate, schedule: {tau: 4}}",
                             at::kBFloat16},
                      Broken{"lazy", "galore", kLazy},
                      Broken{"quantized", "q_galore",
                             "{rank: 8, schedule: {tau: 2}, refresh: {window: 2, similarity: 0.0}}"},
                      Broken{"in_8_bits", "q_galore", "{rank: 8, moments: rotate, schedule: {tau: 3}}",
                             at::kFloat, false, "{name: adam8bit}"},
                      Broken{"by_layer", "q_galore", "{rank: 8, schedule: {tau: 4}}", at::kFloat, true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kumiko::lowrank
