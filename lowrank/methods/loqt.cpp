// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/loqt.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"
#include "framework/core/log.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::lowrank {
namespace {

// Block `refresh`: which layers a due refresh takes, and when.
void parse_refresh(const ConfigNode& node, LoqtOptions& options) {
  const ConfigNode block = node.child("refresh");
  options.refresh = RefreshOptions::parse(block, RefreshKind::all, /*has_bias=*/true);
  if (options.refresh.kind == RefreshKind::lazy && options.basis.solver == BasisSolver::random) {
    block.fail("kind", "is lazy, which compares bases of the gradient, and basis.solver is random; use kind: all or another solver");
  }
  if (options.refresh.kind == RefreshKind::bias) {
    options.basis.looks_at_old = true;
    const BasisOptions& basis = options.basis;
    const bool looks_at_old = basis.solver == BasisSolver::svd || basis.solver == BasisSolver::eigh ||
                              (basis.solver == BasisSolver::range_finder && basis.warm_start && basis.power_iterations > 0);
    if (!looks_at_old) {
      block.fail("kind", "bias compares the old basis with the new one: set method.basis.solver to range_finder with warm_start and "
                         "power_iterations of 1 or more, svd or eigh");
    }
  }
  options.stagger = block.integer("stagger", 0, {0, 1 << 20});
  options.min_retained_update = node.real("min_retained_update", 0.0, {0.0, 1.0});
  options.stall_warning = node.real("stall_warning", 0.5, {0.0, 1.0});
}

// Block `rank_allocation`: fixed, or by the energy that each layer's directions hold, within the factors' size at `rank` everywhere.
void parse_rank_allocation(const ConfigNode& node, LoqtOptions& options) {
  const ConfigNode block = node.child("rank_allocation");
  constexpr std::array<std::string_view, 2> kKinds = {"fixed", "energy"};
  if (block.choice_index("kind", 0, kKinds) == 0) return;
  RankLimits limits;
  limits.min = block.integer("min", std::max<std::int64_t>(1, options.rank / 4), {1, options.rank});
  limits.max = block.integer("max", 2 * options.rank, {options.rank, 1 << 20});
  options.rank_limits = limits;
  if (options.basis.solver == BasisSolver::random) block.fail("kind", "energy needs the gradient's spectrum, which method.basis.solver random does not look at");
  if (options.stagger > 0) block.fail("kind", "energy divides a budget among all layers at once; set method.refresh.stagger to 0");
  if (options.refresh.kind != RefreshKind::all) block.fail("kind", "energy gives every layer a new rank; set method.refresh.kind to all");
  if (options.min_retained_update > 0.0) block.fail("kind", "energy gives every layer a new rank; set method.min_retained_update to 0");
  if (options.moments == Moments::keep) node.fail("moments", "keep cannot go with method.rank_allocation energy: the moments have another size; use rotate or reset");
}

}  // namespace

LoqtOptions LoqtOptions::parse(const ConfigNode& node, bool quantized, std::int64_t hidden_size, std::int64_t total_steps) {
  const std::int64_t rank = parse_rank(node, hidden_size);
  const double scale = node.real("scale", 0.5, {1e-6, 1e6});
  const auto targets = Targets::parse(node);
  const std::string_view codec = quantized ? "nf4" : "none";
  const auto storage = StorageOptions::parse(node, {.weights = codec, .basis = codec});
  const auto basis = BasisOptions::parse(node.child("basis"));
  const int iterations = static_cast<int>(node.integer("compensation_iterations", storage.quantized() ? 5 : 0, {0, 1000}));
  const auto factor_dtype = parse_factor_dtype(node);
  const auto moments = parse_moments(node, Moments::rotate);
  LoqtOptions options{rank, scale, targets, storage, basis, iterations, factor_dtype,
                      MergeSchedule::parse(node.child("schedule"), total_steps), moments};
  parse_refresh(node, options);
  parse_rank_allocation(node, options);
  return options;
}

LoqtMethod::LoqtMethod(const MethodContext& context, bool quantized)
    : BasicMethod(context), name_(quantized ? "loqt" : "loqt_nq"),
      options_(LoqtOptions::parse(context.options, quantized, context.model.hidden_size, context.total_steps)),
      // With ranks by energy a basis is cut before it is stored.
      probe_(options_.basis, options_.rank_limits ? quant::QuantFormat{quant::CodecKind::none} : options_.storage.basis, seed_, device_,
             options_.rank_limits ? std::optional(options_.rank_limits->max) : std::nullopt) {}

std::unique_ptr<Linear> LoqtMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  if (!options_.targets.has(spec)) return make_dense(spec, initial);
  auto linear = std::make_unique<LoqtLinear>(
      spec, initial,
      LoqtLinearOptions{options_.rank, options_.rank_limits.has_value(), options_.scale, options_.compensation_iterations, options_.storage.weights, options_.storage.basis,
                        options_.factor_dtype, param_dtype_, device_});
  layers_.push_back(linear.get());
  refreshes_.emplace_back(options_.refresh);
  probe_.add(*linear);
  return linear;
}

void LoqtMethod::validate(const ModelOptions& model) const {
  const auto specs = model.linear_specs();
  check_rank(options_.rank, options_.targets, specs);
  if (options_.rank_limits) check_rank(options_.rank_limits->max, options_.targets, specs, "method.rank_allocation.max (by default twice the rank)");
  if (options_.stagger == 0) return;
  const auto layers = std::count_if(specs.begin(), specs.end(), [this](const LinearSpec& spec) { return options_.targets.has(spec); });
  const std::int64_t needed = (layers + options_.stagger - 1) / options_.stagger;
  const auto& due = options_.schedule.steps();
  for (std::size_t i = 1; i < due.size(); ++i) {
    KUMIKO_EXPECTS(i == 1 || due[i] - due[i - 1] >= needed, UsageError, "method.refresh.stagger ", options_.stagger, " needs ", needed,
                   " steps for ", layers, " layers, but method.schedule is due at ", due[i - 1], " and ", due[i], " already; raise stagger or tau");
  }
}

void LoqtMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  const std::int64_t rank = options_.rank;
  const std::int64_t most = options_.rank_limits ? options_.rank_limits->max : rank;
  std::int64_t pending = 0;   // new bases, beside the old ones until all layers are probed
  std::vector<LinearSpec> probed;
  for (const auto& spec : model.linear_specs()) {
    const std::int64_t numel = spec.in_features * spec.out_features;
    if (!options_.targets.has(spec)) {
      plan_dense(spec, plan);
      continue;
    }
    const Side side = default_side(spec.in_features, spec.out_features);
    const std::int64_t factor = rank * std::max(spec.in_features, spec.out_features);
    const std::int64_t rows = Projector::basis_rows(side, spec.in_features, spec.out_features);
    plan_stored(numel, options_.storage.weights, plan);
    // With ranks by energy: at most, since the budget is in the factor's elements.
    const std::int64_t basis = quant::QuantizedTensor::nbytes_for(most * rows, options_.storage.basis, at::kFloat);
    plan.basis += basis;
    pending += options_.rank_limits ? 4 * most * rows : basis;
    plan.factor += factor * static_cast<std::int64_t>(at::elementSize(options_.factor_dtype));
    plan.moments += moments_nbytes(spec, ParamRole::factor, Projector::factor_sizes(side, rank, spec.in_features, spec.out_features));
    plan.add_gradient(4 * factor);
    plan.scratch = std::max(plan.scratch, 4 * numel * 4);   // W, target, residual and a product while compensating
    probed.push_back(spec);
  }
  plan.sketches = std::max(plan.sketches, pending + BasisProbe::nbytes_for(probed, most, options_.basis));
}

StepPlan LoqtMethod::begin_step(std::int64_t step) {
  const bool due = options_.schedule.due(step);
  if (layers_.empty() || (!due && waiting_.empty())) return {};
  if (due) {
    round_merged_ = false;
    waiting_.clear();
    const std::int64_t number = options_.schedule.count_before(step);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (refreshes_[i].due(number)) waiting_.push_back(i);
    }
    if (waiting_.empty()) return {};
  }
  // The first bases are found together: without one a layer has nothing to train.
  const bool staggered = options_.stagger > 0 && layers_[waiting_.front()]->has_projector();
  const std::size_t count = staggered ? std::min(waiting_.size(), static_cast<std::size_t>(options_.stagger)) : waiting_.size();
  const auto end = waiting_.begin() + static_cast<std::ptrdiff_t>(count);
  const int passes = probe_.begin({waiting_.begin(), end});
  waiting_.erase(waiting_.begin(), end);
  return {staggered, passes};
}

std::vector<std::int64_t> LoqtMethod::ranks_of_probe(dist::Communicator& comm) const {
  if (!options_.rank_limits) return std::vector<std::int64_t>(probe_.size(), options_.rank);
  const auto spectra = probe_.spectra(comm);
  RankLimits limits = *options_.rank_limits;
  for (const auto& spectrum : spectra) limits.budget += options_.rank * spectrum.cost;
  return allocate_ranks(spectra, limits);
}

std::optional<std::uint64_t> LoqtMethod::rounding_seed(const LoqtLinear& layer) const {
  if (options_.storage.rounding == Rounding::nearest) return std::nullopt;
  return stream_seed(seed_, concat("rounding/", layer.spec().name, "/", probe_.count()));
}

LoqtMethod::Outcome LoqtMethod::merge_layer(std::size_t position, std::int64_t rank, Optimizer& optimizer, dist::Communicator& comm) {
  LoqtLinear& layer = *layers_[probe_.index(position)];
  Outcome outcome;
  std::optional<LoqtLinear::Merge> merge;
  at::Tensor merges = at::ones({1}, at::kLong);
  if (probe_.owns(position, comm)) {
    Projector next = probe_.take(position);
    if (options_.rank_limits) next = Projector(layer.side(), next.basis(at::kFloat).narrow(1, 0, rank).contiguous(), options_.storage.basis);
    merge = layer.prepare_merge(std::move(next), rounding_seed(layer));
    outcome.result = merge->result;
    const bool asks = options_.min_retained_update > 0.0;
    if (asks && merge->result.retained_update.value_or(1.0) < options_.min_retained_update) merges.zero_();
  }
  probe_.share({merges}, position, comm);
  outcome.merged = merges.item<std::int64_t>() != 0;
  outcome.folded = outcome.merged && layer.has_projector();
  if (!outcome.merged) return outcome;
  const std::string& factor = layer.factor().name;
  if (merge) {
    const at::Tensor old = layer.has_projector() ? layer.projector().basis(at::kFloat) : at::Tensor();
    layer.commit(std::move(*merge));
    if (old.defined()) outcome.similarity = first_similarity(old, layer.projector().basis(at::kFloat));
    if (old.defined() && options_.moments == Moments::rotate) {
      rotate_moments(optimizer, factor, layer.side(), old, layer.projector().basis(at::kFloat));
    }
    if (!old.defined() && options_.rank_limits) optimizer.resize(factor, layer.factor().grad_sizes());
  } else {
    layer.prepare_to_receive(rank);
    if (options_.rank_limits) optimizer.resize(factor, layer.factor().grad_sizes());
  }
  if (options_.moments == Moments::reset) optimizer.resize(factor, layer.factor().grad_sizes());
  probe_.share(layer.state_tensors(), position, comm);
  probe_.share(optimizer.state_tensors(factor), position, comm);
  return outcome;
}

void LoqtMethod::end_probe(std::int64_t /*step*/, Optimizer& optimizer, dist::Communicator& comm, MethodReport& report) {
  if (!probe_.finite()) {
    report.skipped = true;
    // Layers of a staggered round, and those without a first basis, try again at the next step; others at the next merge.
    for (std::size_t i = probe_.size(); i-- > 0;) {
      const std::size_t index = probe_.index(i);
      if (options_.stagger > 0 || !layers_[index]->has_projector()) waiting_.push_front(index);
    }
    return;
  }
  const auto ranks = ranks_of_probe(comm);
  const bool by_bias = options_.refresh.kind == RefreshKind::bias;
  const auto old_shares = by_bias ? probe_.old_shares(comm) : std::vector<double>(probe_.size(), 0.0);
  std::vector<Outcome> outcomes(probe_.size());
  for (std::size_t i = 0; i < probe_.size(); ++i) {
    if (!by_bias || 1.0 - old_shares[i] >= options_.refresh.bias) outcomes[i] = merge_layer(i, ranks[i], optimizer, comm);
    report.merged = report.merged || outcomes[i].folded;
  }
  observe_similarities(outcomes, comm);
  report.resized = options_.rank_limits.has_value();
  fill_report(outcomes, comm, report);
  if (report.merged && comm.rank() == 0) warn_of_a_stall(report);
  probe_.end();
  round_merged_ = round_merged_ || report.merged;
  if (waiting_.empty() && round_merged_) ++merges_;
}

void LoqtMethod::observe_similarities(const std::vector<Outcome>& outcomes, dist::Communicator& comm) {
  if (options_.refresh.kind != RefreshKind::lazy) return;
  std::vector<double> similarities;
  for (const Outcome& outcome : outcomes) similarities.push_back(outcome.similarity);
  similarities = gathered(similarities, comm);
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    if (outcomes[i].folded) refreshes_[probe_.index(i)].observe(similarities[i]);
  }
}

void LoqtMethod::fill_report(const std::vector<Outcome>& outcomes, dist::Communicator& comm, MethodReport& report) const {
  std::vector<double> errors, retained, is_retained;
  for (const Outcome& outcome : outcomes) {
    errors.push_back(outcome.result.weight_error);
    retained.push_back(outcome.result.retained_update.value_or(0.0));
    is_retained.push_back(outcome.result.retained_update ? 1.0 : 0.0);
  }
  errors = gathered(errors, comm);
  retained = gathered(retained, comm);
  is_retained = gathered(is_retained, comm);
  auto energies = probe_.captured_energies(comm);
  if (options_.rank_limits) {   // the probe sought more directions than were kept
    const auto spectra = probe_.spectra(comm);
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      const auto first = spectra[i].energies.begin();
      const double kept = std::accumulate(first, first + layers_[probe_.index(i)]->rank(), 0.0);
      energies[i] = spectra[i].total > 0.0 ? kept / spectra[i].total : 0.0;
    }
  }
  std::vector<double> merged_errors;
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    const LoqtLinear& layer = *layers_[probe_.index(i)];
    LayerReport line{.name = layer.spec().name};
    if (energies[i] > 0.0) line.captured_energy = energies[i];
    if (is_retained[i] > 0.0) line.retained_update = retained[i];
    if (outcomes[i].merged) {
      line.weight_error = errors[i];
      merged_errors.push_back(errors[i]);
    }
    if (options_.rank_limits) line.rank = layer.rank();
    report.layers.push_back(std::move(line));
  }
  report.captured_energy = mean(energies);
  report.weight_error = mean(merged_errors);
}

void LoqtMethod::warn_of_a_stall(const MethodReport& report) const {
  std::vector<double> retained;
  const LayerReport* lowest = nullptr;
  for (const LayerReport& layer : report.layers) {
    if (!layer.retained_update || !layer.weight_error) continue;
    retained.push_back(*layer.retained_update);
    if (lowest == nullptr || *layer.retained_update < *lowest->retained_update) lowest = &layer;
  }
  if (retained.empty() || mean(retained) >= options_.stall_warning) return;
  log::warning(concat("a merge kept ", std::lround(100.0 * mean(retained)), " % of the trained update, mean over ", retained.size(),
                      " layers (least: ", lowest->name, ", ", std::lround(100.0 * *lowest->retained_update),
                      " %): what is lost in requantization was trained for nothing. Raise method.compensation_iterations or "
                      "method.schedule.tau, set method.min_retained_update, or take a finer method.quantization.weights"));
}

void LoqtMethod::save(StateWriter& out) const {
  probe_.save(out);
  out.integer("merges", merges_);
  out.integer("round_merged", round_merged_ ? 1 : 0);
  const std::vector<std::int64_t> waiting(waiting_.begin(), waiting_.end());
  out.tensor("waiting", at::tensor(waiting, at::kLong));
  if (options_.refresh.kind != RefreshKind::lazy) return;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    ScopedWriter scoped(out, "refresh/" + layers_[i]->spec().name + "/");
    refreshes_[i].save(scoped);
  }
}

void LoqtMethod::load(const StateReader& in) {
  probe_.load(in);
  merges_ = in.integer("merges");
  round_merged_ = in.integer("round_merged") != 0;
  const at::Tensor waiting = in.tensor("waiting").contiguous();
  waiting_.clear();
  for (std::int64_t i = 0; i < waiting.numel(); ++i) {
    const std::int64_t index = waiting[i].item<std::int64_t>();
    KUMIKO_EXPECTS(index >= 0 && index < static_cast<std::int64_t>(layers_.size()), CheckpointError, "'waiting' names layer ", index,
                   ", this model has ", layers_.size(), "; take an older checkpoint");
    waiting_.push_back(static_cast<std::size_t>(index));
  }
  if (options_.refresh.kind != RefreshKind::lazy) return;
  for (std::size_t i = 0; i < layers_.size(); ++i) refreshes_[i].load(ScopedReader(in, "refresh/" + layers_[i]->spec().name + "/"));
}

}  // namespace kumiko::lowrank
