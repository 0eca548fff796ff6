// SPDX-License-Identifier: Apache-2.0
#include "lowrank/basis_probe.hpp"

#include <algorithm>
#include <numeric>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::lowrank {

BasisProbe::BasisProbe(const BasisOptions& options, const quant::QuantFormat& storage, std::uint64_t seed,
                       at::Device device, std::optional<std::int64_t> rank)
    : options_(options), storage_(storage), seed_(seed), device_(device), rank_(rank) {}

std::int64_t BasisProbe::nbytes_for(const std::vector<LinearSpec>& specs, std::int64_t rank,
                                    const BasisOptions& options) {
  std::int64_t group = 0;
  std::int64_t peak = 0;
  for (const auto& spec : specs) {
    const Side side = default_side(spec.in_features, spec.out_features);
    const std::int64_t own =
        BasisSketch::nbytes_for(spec.in_features, spec.out_features, side, rank, options);
    group = group > 0 && group + own > options.group_memory_bytes ? own : group + own;
    peak = std::max(peak, group);
  }
  return peak;
}

std::vector<BasisProbe::Group> BasisProbe::make_groups() const {
  std::vector<Group> groups;
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < indices_.size(); ++i) {
    const auto& spec = layer(i).spec();
    const int passes = BasisSketch::passes(options_, layer(i).has_projector());
    if (passes == 0) continue;
    const std::int64_t own = BasisSketch::nbytes_for(spec.in_features, spec.out_features, layer(i).side(),
                                                     rank_of(layer(i)), options_);
    if (groups.empty() || bytes + own > options_.group_memory_bytes || groups.back().passes != passes) {
      groups.push_back({i, i, groups.empty() ? 0 : groups.back().first_pass + groups.back().passes, passes});
      bytes = 0;
    }
    groups.back().last = i + 1;
    bytes += own;
  }
  return groups;
}

const BasisProbe::Group* BasisProbe::running(int pass) const {
  if (!finite_) return nullptr;
  for (const Group& group : groups_) {
    if (pass >= group.first_pass && pass < group.first_pass + group.passes) return &group;
  }
  return nullptr;
}

std::uint64_t BasisProbe::sketch_seed(const ProbedLinear& layer) const {
  return stream_seed(seed_, concat("sketch/", layer.spec().name, "/", probes_));
}

int BasisProbe::begin(std::vector<std::size_t> indices) {
  indices_ = std::move(indices);
  groups_ = make_groups();
  sketches_.clear();
  fitted_.assign(indices_.size(), std::nullopt);
  facts_.assign(indices_.size(), {});
  finite_ = true;
  return groups_.empty() ? 1 : groups_.back().first_pass + groups_.back().passes;
}

int BasisProbe::begin() {
  std::vector<std::size_t> all(layers_.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  return begin(std::move(all));
}

void BasisProbe::begin_pass(int pass) {
  const Group* group = running(pass);
  if (group == nullptr) return;
  if (pass == group->first_pass) {
    sketches_.clear();
    for (std::size_t i = group->first; i < group->last; ++i) {
      ProbedLinear& probed = layer(i);
      const at::Tensor old = probed.has_projector() ? probed.projector().basis(at::kFloat) : at::Tensor();
      sketches_.push_back(std::make_unique<BasisSketch>(probed.spec().in_features, probed.spec().out_features,
                                                        probed.side(), rank_of(probed), options_, old,
                                                        sketch_seed(probed), device_));
      probed.begin_probe(*sketches_.back());
    }
  }
  for (auto& sketch : sketches_) sketch->begin_pass(pass - group->first_pass);
}

std::vector<at::Tensor> BasisProbe::accumulators() {
  std::vector<at::Tensor> tensors;
  for (auto& sketch : sketches_) tensors.push_back(sketch->accumulator());
  return tensors;
}

void BasisProbe::fit(std::size_t position, BasisSketch& sketch) {
  FittedBasis fitted = sketch.finish();
  fitted_[position].emplace(layer(position).side(), fitted.basis, storage_);
  fitted.basis.reset();
  facts_[position] = std::move(fitted);
}

void BasisProbe::end_pass(int pass, dist::Communicator& comm) {
  const Group* group = running(pass);
  if (group == nullptr) return;
  const int own_pass = pass - group->first_pass;
  const bool last = own_pass + 1 == group->passes;
  for (const auto& sketch : sketches_)
    finite_ = finite_ && at::isfinite(sketch->accumulator()).all().item<bool>();
  for (std::size_t i = group->first; finite_ && i < group->last; ++i) {
    BasisSketch& sketch = *sketches_[i - group->first];
    if (last) {
      if (owns(i, comm)) fit(i, sketch);
      sketches_[i - group->first].reset();
      continue;
    }
    if (owns(i, comm)) {
      sketch.end_pass(own_pass);
    } else {
      sketch.receive_pass(own_pass);
    }
    if (sketch.test_matrix().defined()) share({sketch.test_matrix()}, i, comm);
  }
  if (last || !finite_) {
    for (std::size_t i = group->first; i < group->last; ++i) layer(i).end_probe();
    sketches_.clear();
  }
}

Projector BasisProbe::take(std::size_t position) {
  if (!fitted_[position]) {  // random: no pass fitted it
    const ProbedLinear& probed = layer(position);
    BasisSketch sketch(probed.spec().in_features, probed.spec().out_features, probed.side(), rank_of(probed),
                       options_, {}, sketch_seed(probed), device_);
    fit(position, sketch);
  }
  Projector basis = std::move(*fitted_[position]);
  fitted_[position].reset();
  return basis;
}

void BasisProbe::share(const std::vector<at::Tensor>& tensors, std::size_t position,
                       dist::Communicator& comm) const {
  if (comm.size() == 1) return;
  for (const auto& tensor : tensors) comm.broadcast(tensor, owner(position, comm))->wait();
}

std::vector<double> BasisProbe::captured_energies(dist::Communicator& comm) const {
  std::vector<double> own;
  for (const FittedBasis& facts : facts_) own.push_back(facts.captured_energy);
  return gathered(own, comm);
}

std::vector<double> BasisProbe::old_shares(dist::Communicator& comm) const {
  std::vector<double> own;
  for (const FittedBasis& facts : facts_) {
    const double now = std::accumulate(facts.energies.begin(), facts.energies.end(), 0.0);
    own.push_back(facts.old_energy && now > 0.0 ? *facts.old_energy / now : 0.0);
  }
  return gathered(own, comm);
}

std::vector<LayerSpectrum> BasisProbe::spectra(dist::Communicator& comm) const {
  std::vector<double> own;
  for (std::size_t i = 0; i < size(); ++i) {
    const auto count = static_cast<std::size_t>(rank_of(layer(i)));
    for (std::size_t k = 0; k < count; ++k) own.push_back(k < facts_[i].energies.size() ? facts_[i].energies[k] : 0.0);
    own.push_back(facts_[i].total_energy);
  }
  const std::vector<double> all = gathered(own, comm);
  std::vector<LayerSpectrum> result;
  auto next = all.begin();
  for (std::size_t i = 0; i < size(); ++i) {
    const auto& spec = layer(i).spec();
    LayerSpectrum spectrum{{next, next + rank_of(layer(i))}, 0.0, std::max(spec.in_features, spec.out_features)};
    next += rank_of(layer(i));
    spectrum.total = *next++;
    result.push_back(std::move(spectrum));
  }
  return result;
}

void BasisProbe::end() {
  groups_.clear();
  ++probes_;
}

std::vector<double> gathered(const std::vector<double>& values, dist::Communicator& comm) {
  at::Tensor all = at::tensor(values, at::kDouble);
  comm.all_reduce(all, dist::ReduceOp::sum)->wait();
  return {all.const_data_ptr<double>(), all.const_data_ptr<double>() + all.numel()};
}

double mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return values.empty() ? 0.0 : sum / static_cast<double>(values.size());
}

}  // namespace kumiko::lowrank
