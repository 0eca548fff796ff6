// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/loqt.hpp"

#include <algorithm>
#include <array>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::lowrank {
namespace {

std::size_t owner_of(std::size_t layer, const dist::Communicator& comm) { return layer % static_cast<std::size_t>(comm.size()); }

bool owns(std::size_t layer, const dist::Communicator& comm) { return static_cast<int>(owner_of(layer, comm)) == comm.rank(); }

void broadcast(dist::Communicator& comm, at::Tensor tensor, std::size_t owner) {
  comm.broadcast(std::move(tensor), static_cast<int>(owner))->wait();
}

// Each layer's value is held by one rank and 0 on the others; summed in the order of the layers on any number of ranks.
double mean_over_layers(const std::vector<double>& values, dist::Communicator& comm) {
  at::Tensor all = at::tensor(values, at::kDouble);
  comm.all_reduce(all, dist::ReduceOp::sum)->wait();
  double sum = 0.0;
  for (std::int64_t i = 0; i < all.numel(); ++i) sum += all[i].item<double>();
  return sum / static_cast<double>(values.size());
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
  constexpr std::array<std::pair<std::string_view, at::ScalarType>, 2> kDtypes = {{{"fp32", at::kFloat}, {"bf16", at::kBFloat16}}};
  constexpr std::array<std::pair<std::string_view, Moments>, 3> kMoments = {
      {{"keep", Moments::keep}, {"reset", Moments::reset}, {"rotate", Moments::rotate}}};
  const auto factor_dtype = node.choice("factor", at::kFloat, kDtypes);
  const auto moments = node.choice("moments", Moments::rotate, kMoments);
  return {rank, scale, targets, storage, basis, iterations, factor_dtype,
          MergeSchedule::parse(node.child("schedule"), total_steps), moments};
}

LoqtMethod::LoqtMethod(const MethodContext& context, bool quantized)
    : BasicMethod(context), name_(quantized ? "loqt" : "loqt_nq"),
      options_(LoqtOptions::parse(context.options, quantized, context.model.hidden_size, context.total_steps)) {}

std::unique_ptr<Linear> LoqtMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  if (!options_.targets.has(spec)) return make_dense(spec, initial);
  auto linear = std::make_unique<LoqtLinear>(
      spec, initial,
      LoqtLinearOptions{options_.rank, options_.scale, options_.compensation_iterations, options_.storage.weights, options_.storage.basis,
                        options_.factor_dtype, param_dtype_, device_});
  layers_.push_back(linear.get());
  return linear;
}

void LoqtMethod::validate(const ModelOptions& model) const { check_rank(options_.rank, options_.targets, model.linear_specs()); }

void LoqtMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  const std::int64_t rank = options_.rank;
  std::int64_t group = 0;
  for (const auto& spec : model.linear_specs()) {
    const std::int64_t numel = spec.in_features * spec.out_features;
    if (!options_.targets.has(spec)) {
      plan_dense(spec, plan);
      continue;
    }
    const Side side = default_side(spec.in_features, spec.out_features);
    const std::int64_t factor = rank * std::max(spec.in_features, spec.out_features);
    const std::int64_t basis = rank * Projector::basis_rows(side, spec.in_features, spec.out_features);
    const auto& codec = quant::codec_of(options_.storage.weights.codec);
    const std::int64_t stored = quant::QuantizedTensor::nbytes_for(numel, options_.storage.weights, param_dtype_);
    const std::int64_t codes = codec.bits > 0 ? codec.code_bytes(numel) : stored;
    plan.weights += codes;
    plan.scales += stored - codes;
    plan.basis += quant::QuantizedTensor::nbytes_for(basis, options_.storage.basis, at::kFloat);
    plan.factor += factor * static_cast<std::int64_t>(at::elementSize(options_.factor_dtype));
    plan.moments += moments_nbytes(spec, ParamRole::factor, Projector::factor_sizes(side, rank, spec.in_features, spec.out_features));
    plan.add_gradient(4 * factor);
    const std::int64_t sketch = BasisSketch::nbytes_for(spec.in_features, spec.out_features, side, rank, options_.basis);
    group = group > 0 && group + sketch > options_.basis.group_memory_bytes ? sketch : group + sketch;
    plan.sketches = std::max(plan.sketches, group);
    plan.scratch = std::max(plan.scratch, 4 * numel * 4);   // W, target, residual and a product while compensating
  }
}

std::vector<LoqtMethod::Group> LoqtMethod::make_groups() const {
  std::vector<Group> groups;
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const auto& spec = layers_[i]->spec();
    const std::int64_t own =
        BasisSketch::nbytes_for(spec.in_features, spec.out_features, layers_[i]->side(), layers_[i]->options().rank, options_.basis);
    if (groups.empty() || bytes + own > options_.basis.group_memory_bytes) {
      groups.push_back({i, i});
      bytes = 0;
    }
    groups.back().last = i + 1;
    bytes += own;
  }
  return groups;
}

std::uint64_t LoqtMethod::sketch_seed(const LoqtLinear& layer) const {
  return stream_seed(seed_, concat("sketch/", layer.spec().name, "/", probes_));
}

StepPlan LoqtMethod::begin_step(std::int64_t step) {
  groups_.clear();
  if (layers_.empty() || !options_.schedule.due(step)) return {};
  groups_ = make_groups();
  fitted_.assign(layers_.size(), std::nullopt);
  energy_.assign(layers_.size(), 0.0);
  error_.assign(layers_.size(), 0.0);
  finite_ = true;
  passes_per_group_ = BasisSketch::passes(options_.basis, layers_.front()->has_projector());
  // A random basis needs no gradient: one pass only tells the step's loss.
  return {false, std::max(1, passes_per_group_ * static_cast<int>(groups_.size()))};
}

void LoqtMethod::begin_pass(int pass) {
  if (passes_per_group_ == 0 || !finite_) return;
  const Group group = groups_[static_cast<std::size_t>(pass / passes_per_group_)];
  const int own_pass = pass % passes_per_group_;
  if (own_pass == 0) {
    sketches_.clear();
    for (std::size_t i = group.first; i < group.last; ++i) {
      LoqtLinear& layer = *layers_[i];
      const at::Tensor old = layer.has_projector() ? layer.projector().basis(at::kFloat) : at::Tensor();
      sketches_.push_back(std::make_unique<BasisSketch>(layer.spec().in_features, layer.spec().out_features, layer.side(),
                                                        layer.options().rank, options_.basis, old, sketch_seed(layer), device_));
      layer.begin_probe(*sketches_.back());
    }
  }
  for (auto& sketch : sketches_) sketch->begin_pass(own_pass);
}

std::vector<at::Tensor> LoqtMethod::accumulators() {
  std::vector<at::Tensor> tensors;
  for (auto& sketch : sketches_) tensors.push_back(sketch->accumulator());
  return tensors;
}

void LoqtMethod::end_pass(int pass, dist::Communicator& comm) {
  if (passes_per_group_ == 0 || !finite_) return;
  const Group group = groups_[static_cast<std::size_t>(pass / passes_per_group_)];
  const int own_pass = pass % passes_per_group_;
  const bool last = own_pass + 1 == passes_per_group_;
  for (const auto& sketch : sketches_) finite_ = finite_ && at::isfinite(sketch->accumulator()).all().item<bool>();
  const bool last_use = last || !finite_;   // the passes left only tell the step's loss
  for (std::size_t i = group.first; finite_ && i < group.last; ++i) {
    BasisSketch& sketch = *sketches_[i - group.first];
    if (last) {
      if (!owns(i, comm)) continue;
      FittedBasis fitted = sketch.finish();
      energy_[i] = fitted.captured_energy;
      fitted_[i].emplace(layers_[i]->side(), fitted.basis, options_.storage.basis);
      sketches_[i - group.first] = nullptr;
      continue;
    }
    if (owns(i, comm)) {
      sketch.end_pass(own_pass);
    } else {
      sketch.receive_pass(own_pass);
    }
    // Computed once: a factorization may differ between machines in sign or order.
    if (comm.size() > 1 && sketch.test_matrix().defined()) broadcast(comm, sketch.test_matrix(), owner_of(i, comm));
  }
  if (last_use) {
    for (std::size_t i = group.first; i < group.last; ++i) layers_[i]->end_probe();
    sketches_.clear();
  }
}

void LoqtMethod::merge_layer(std::size_t index, Optimizer& optimizer, dist::Communicator& comm) {
  LoqtLinear& layer = *layers_[index];
  const std::string& factor = layer.factor().name;
  const std::size_t owner = owner_of(index, comm);
  if (owns(index, comm)) {
    if (!fitted_[index]) {   // random: no pass fitted it
      BasisSketch sketch(layer.spec().in_features, layer.spec().out_features, layer.side(), layer.options().rank, options_.basis, {},
                               sketch_seed(layer), device_);
      fitted_[index].emplace(layer.side(), sketch.finish().basis, options_.storage.basis);
    }
    const at::Tensor old = layer.has_projector() ? layer.projector().basis(at::kFloat) : at::Tensor();
    error_[index] = layer.merge(std::move(*fitted_[index]));
    fitted_[index].reset();
    if (old.defined() && options_.moments == Moments::rotate) {
      const at::Tensor rotation = at::mm(layer.projector().basis(at::kFloat).t(), old);   // P_new^T P_old, [r, r]
      optimizer.transform(factor, [&](const at::Tensor& moment, int power) {
        const at::Tensor map = power == 2 ? rotation.square() : rotation;
        return layer.side() == Side::input ? at::mm(map, moment) : at::mm(moment, map.t());
      });
    }
  } else {
    layer.prepare_to_receive();
  }
  if (options_.moments == Moments::reset) optimizer.forget(factor);
  if (comm.size() == 1) return;
  for (auto& tensor : layer.state_tensors()) broadcast(comm, tensor, owner);
  for (auto& tensor : optimizer.state_tensors(factor)) broadcast(comm, tensor, owner);
}

void LoqtMethod::end_probe(std::int64_t step, Optimizer& optimizer, dist::Communicator& comm, MethodReport& report) {
  groups_.clear();
  if (!finite_) {
    report.skipped = true;
    return;
  }
  const bool trained = step > 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) merge_layer(i, optimizer, comm);
  report.merged = trained;
  report.captured_energy = mean_over_layers(energy_, comm);
  report.weight_error = mean_over_layers(error_, comm);
  ++probes_;
  if (trained) ++merges_;
}

void LoqtMethod::save(StateWriter& out) const {
  out.integer("probes", probes_);
  out.integer("merges", merges_);
}

void LoqtMethod::load(const StateReader& in) {
  probes_ = in.integer("probes");
  merges_ = in.integer("merges");
}

}  // namespace kumiko::lowrank
