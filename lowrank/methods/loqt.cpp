// SPDX-License-Identifier: Apache-2.0
#include "lowrank/methods/loqt.hpp"

#include <algorithm>
#include <array>

#include <ATen/ATen.h>

#include "framework/core/config.hpp"

namespace kumiko::lowrank {
LoqtOptions LoqtOptions::parse(const ConfigNode& node, bool quantized, std::int64_t hidden_size, std::int64_t total_steps) {
  const std::int64_t rank = parse_rank(node, hidden_size);
  const double scale = node.real("scale", 0.5, {1e-6, 1e6});
  const auto targets = Targets::parse(node);
  const std::string_view codec = quantized ? "nf4" : "none";
  const auto storage = StorageOptions::parse(node, {.weights = codec, .basis = codec});
  const auto basis = BasisOptions::parse(node.child("basis"));
  const int iterations = static_cast<int>(node.integer("compensation_iterations", storage.quantized() ? 5 : 0, {0, 1000}));
  constexpr std::array<std::pair<std::string_view, at::ScalarType>, 2> kDtypes = {{{"fp32", at::kFloat}, {"bf16", at::kBFloat16}}};
  const auto factor_dtype = node.choice("factor", at::kFloat, kDtypes);
  const auto moments = parse_moments(node, Moments::rotate);
  return {rank, scale, targets, storage, basis, iterations, factor_dtype,
          MergeSchedule::parse(node.child("schedule"), total_steps), moments};
}

LoqtMethod::LoqtMethod(const MethodContext& context, bool quantized)
    : BasicMethod(context), name_(quantized ? "loqt" : "loqt_nq"),
      options_(LoqtOptions::parse(context.options, quantized, context.model.hidden_size, context.total_steps)),
      probe_(options_.basis, options_.storage.basis, seed_, device_) {}

std::unique_ptr<Linear> LoqtMethod::make_linear(const LinearSpec& spec, at::Tensor initial) {
  if (!options_.targets.has(spec)) return make_dense(spec, initial);
  auto linear = std::make_unique<LoqtLinear>(
      spec, initial,
      LoqtLinearOptions{options_.rank, options_.scale, options_.compensation_iterations, options_.storage.weights, options_.storage.basis,
                        options_.factor_dtype, param_dtype_, device_});
  layers_.push_back(linear.get());
  probe_.add(*linear);
  return linear;
}

void LoqtMethod::validate(const ModelOptions& model) const { check_rank(options_.rank, options_.targets, model.linear_specs()); }

void LoqtMethod::plan(const ModelOptions& model, MemoryPlan& plan) const {
  const std::int64_t rank = options_.rank;
  std::vector<LinearSpec> probed;
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
    plan.scratch = std::max(plan.scratch, 4 * numel * 4);   // W, target, residual and a product while compensating
    probed.push_back(spec);
  }
  plan.sketches = std::max(plan.sketches, BasisProbe::nbytes_for(probed, rank, options_.basis));
}

StepPlan LoqtMethod::begin_step(std::int64_t step) {
  if (layers_.empty() || !options_.schedule.due(step)) return {};
  const int passes = probe_.begin();
  errors_.assign(probe_.size(), 0.0);
  return {false, passes};
}

void LoqtMethod::merge_layer(std::size_t position, Optimizer& optimizer, dist::Communicator& comm) {
  LoqtLinear& layer = *layers_[probe_.index(position)];
  const std::string& factor = layer.factor().name;
  if (probe_.owns(position, comm)) {
    const at::Tensor old = layer.has_projector() ? layer.projector().basis(at::kFloat) : at::Tensor();
    errors_[position] = layer.merge(probe_.take(position));
    if (old.defined() && options_.moments == Moments::rotate) {
      rotate_moments(optimizer, factor, layer.side(), old, layer.projector().basis(at::kFloat));
    }
  } else {
    layer.prepare_to_receive();
  }
  if (options_.moments == Moments::reset) optimizer.forget(factor);
  probe_.share(layer.state_tensors(), position, comm);
  probe_.share(optimizer.state_tensors(factor), position, comm);
}

void LoqtMethod::end_probe(std::int64_t step, Optimizer& optimizer, dist::Communicator& comm, MethodReport& report) {
  if (!probe_.finite()) {
    report.skipped = true;
    return;
  }
  const bool trained = step > 0;
  for (std::size_t i = 0; i < probe_.size(); ++i) merge_layer(i, optimizer, comm);
  report.merged = trained;
  report.captured_energy = mean(probe_.captured_energies(comm));
  report.weight_error = mean(gathered(errors_, comm));
  probe_.end();
  if (trained) ++merges_;
}

void LoqtMethod::save(StateWriter& out) const {
  probe_.save(out);
  out.integer("merges", merges_);
}

void LoqtMethod::load(const StateReader& in) {
  probe_.load(in);
  merges_ = in.integer("merges");
}

}  // namespace kumiko::lowrank
