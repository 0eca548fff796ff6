// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/galore.hpp"

#include <algorithm>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko::lowrank {
namespace {

StorageOptions::Defaults storage_defaults(GaloreKind kind) {
  if (kind == GaloreKind::plain) return {};
  return {.weights = "int8",
          .basis = "int4",
          .block_size = 256,
          .double_quant = false,
          .rounding = Rounding::stochastic};
}

}  // namespace

GaloreOptions GaloreOptions::parse(const ConfigNode& node, GaloreKind kind, std::int64_t hidden_size,
                                   std::int64_t total_steps) {
  constexpr std::int64_t kTau = 200;
  GaloreOptions options{
      .rank = parse_rank(node, hidden_size),
      .scale = node.real("scale", 0.25, {1e-6, 1e6}),
      .targets = Targets::parse(node),
      .storage = StorageOptions::parse(node, storage_defaults(kind)),
      .basis = BasisOptions::parse(node.child("basis")),
      .schedule = MergeSchedule::parse(node.child("schedule"), total_steps,
                                       {ScheduleKind::fixed, kTau, ScheduleEnd::open}),
      .refresh = RefreshOptions::parse(
          node.child("refresh"), kind == GaloreKind::plain ? RefreshKind::all : RefreshKind::lazy),
      .moments = parse_moments(node, Moments::keep)};
  if (options.basis.solver == BasisSolver::random && options.refresh.kind == RefreshKind::lazy) {
    node.child("refresh").fail("kind",
                               "is lazy, which compares bases of the gradient, and basis.solver is random; "
                               "use kind: all or another solver");
  }
  return options;
}

GaloreMethod::GaloreMethod(const MethodContext& context, GaloreKind kind)
    : BasicMethod(context),
      kind_(kind),
      options_(GaloreOptions::parse(context.options, kind, context.model.hidden_size, context.total_steps)),
      probe_(options_.basis, options_.storage.basis, seed_, device_) {}

std::string_view GaloreMethod::name() const noexcept {
  return kind_ == GaloreKind::plain ? "galore" : "q_galore";
}

std::unique_ptr<Linear> GaloreMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  if (!options_.targets.has(spec)) return make_dense(spec, initial);
  auto linear = std::make_unique<GaloreLinear>(
      spec, initial.to(device_),
      GaloreLinearOptions{options_.rank, options_.scale, options_.storage, seed_, param_dtype_});
  layers_.push_back(linear.get());
  refreshes_.emplace_back(options_.refresh);
  probe_.add(*linear);
  return linear;
}

void GaloreMethod::validate(const ModelOptions& model) const {
  check_rank(options_.rank, options_.targets, model.linear_specs());
}

void GaloreMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  const std::int64_t rank = options_.rank;
  std::vector<LinearSpec> probed;
  for (const auto& spec : model.linear_specs()) {
    if (!options_.targets.has(spec)) {
      plan_dense(spec, plan);
      continue;
    }
    const std::int64_t numel = spec.in_features * spec.out_features;
    const Side side = default_side(spec.in_features, spec.out_features);
    const std::int64_t basis = rank * Projector::basis_rows(side, spec.in_features, spec.out_features);
    const auto projected = Projector::factor_sizes(side, rank, spec.in_features, spec.out_features);
    plan_stored(numel, options_.storage.weights, plan);
    plan.basis += quant::QuantizedTensor::nbytes_for(basis, options_.storage.basis, at::kFloat);
    plan.moments += moments_nbytes(spec, ParamRole::matrix, projected, /*sees_value=*/false);
    plan.add_gradient(4 * c10::multiply_integers(projected));
    // W in fp32 while it is updated, and the update.
    const bool dense = !options_.storage.quantized() && param_dtype_ == at::kFloat;
    plan.scratch = std::max(plan.scratch, 4 * ((dense ? 0 : numel) + c10::multiply_integers(projected)));
    probed.push_back(spec);
  }
  // New bases wait beside the old ones until all layers are probed.
  plan.sketches = std::max(plan.sketches, plan.basis + BasisProbe::nbytes_for(probed, rank, options_.basis));
}

StepPlan GaloreMethod::begin_step(std::int64_t step) {
  const bool due = options_.schedule.due(step);
  const std::int64_t number = options_.schedule.count_before(step);
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (!layers_[i]->has_projector() || (due && refreshes_[i].due(number))) indices.push_back(i);
  }
  if (indices.empty()) return {};
  return {true, probe_.begin(std::move(indices))};
}

double GaloreMethod::refresh_layer(std::size_t position, Optimizer& optimizer, dist::Communicator& comm) {
  GaloreLinear& layer = *layers_[probe_.index(position)];
  double similarity = 0.0;
  if (probe_.owns(position, comm)) {
    const at::Tensor old = layer.has_projector() ? layer.projector().basis(at::kFloat) : at::Tensor();
    layer.install(probe_.take(position));
    if (old.defined()) {
      const at::Tensor next = layer.projector().basis(at::kFloat);
      similarity = first_similarity(old, next);
      if (options_.moments == Moments::rotate)
        rotate_moments(optimizer, layer.param_name(), layer.side(), old, next);
    }
  } else {
    layer.prepare_to_receive();
  }
  if (options_.moments == Moments::reset) optimizer.forget(layer.param_name());
  // The weight too: products that lift updates may differ between machines in their last bits.
  probe_.share(layer.state_tensors(), position, comm);
  if (options_.moments == Moments::rotate)
    probe_.share(optimizer.state_tensors(layer.param_name()), position, comm);
  return similarity;
}

void GaloreMethod::end_probe(std::int64_t /*step*/, Optimizer& optimizer, dist::Communicator& comm,
                             MethodReport& report) {
  if (!probe_.finite()) {
    report.skipped = true;
    return;
  }
  std::vector<std::size_t> turned;
  std::vector<double> similarities(probe_.size());
  for (std::size_t i = 0; i < probe_.size(); ++i) {
    if (layers_[probe_.index(i)]->has_projector()) turned.push_back(i);
    similarities[i] = refresh_layer(i, optimizer, comm);
  }
  similarities = gathered(similarities, comm);
  for (const std::size_t i : turned) refreshes_[probe_.index(i)].observe(similarities[i]);
  report_layers(probe_.captured_energies(comm), report);
  probe_.end();
}

void GaloreMethod::report_layers(const std::vector<double>& energies, MethodReport& report) const {
  report.captured_energy = mean(energies);
  for (std::size_t i = 0; i < energies.size(); ++i) {
    LayerReport layer{.name = layers_[probe_.index(i)]->spec().name};
    if (energies[i] > 0.0) layer.captured_energy = energies[i];
    report.layers.push_back(std::move(layer));
  }
}

void GaloreMethod::save(StateWriter& out) const {
  probe_.save(out);
  if (options_.refresh.kind == RefreshKind::all) return;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    ScopedWriter scoped(out, concat("refresh/", layers_[i]->spec().name, "/"));
    refreshes_[i].save(scoped);
  }
}

void GaloreMethod::load(const StateReader& in) {
  probe_.load(in);
  if (options_.refresh.kind == RefreshKind::all) return;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    refreshes_[i].load(ScopedReader(in, concat("refresh/", layers_[i]->spec().name, "/")));
  }
}

}  // namespace kumiko::lowrank
