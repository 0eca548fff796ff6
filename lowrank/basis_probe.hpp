// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "dist/communicator.hpp"
#include "framework/core/state.hpp"
#include "lowrank/basis_sketch.hpp"
#include "lowrank/probed_linear.hpp"
#include "lowrank/rank_allocation.hpp"

namespace kumiko::lowrank {

// Finds new bases of some layers over the passes of a probe: layers in groups whose sketches fit
// basis.group_memory together, each basis fitted and stored by the one rank that owns the layer in this
// probe, because factorizations may differ between machines. A non-finite sum ends it on all ranks with
// nothing changed.
//
// begin; for each pass begin_pass, sums over accumulators(), end_pass; then, if finite(), take each basis
// where it is owned, share what follows from it, and end.
class BasisProbe {
 public:
  // Bases are stored in `storage`. `seed` names the random test matrices.
  // `rank`: directions sought in each layer; none: as many as it has.
  BasisProbe(const BasisOptions& options, const quant::QuantFormat& storage, std::uint64_t seed,
             at::Device device, std::optional<std::int64_t> rank = std::nullopt);

  void add(ProbedLinear& layer) {
    layers_.push_back(&layer);
  }  // borrowed; its index is the number of those before it
  const std::vector<ProbedLinear*>& layers() const noexcept { return layers_; }

  // Peak bytes of the sketches in a probe of layers of these sizes.
  static std::int64_t nbytes_for(const std::vector<LinearSpec>& specs, std::int64_t rank,
                                 const BasisOptions& options);

  // Starts a probe of the layers at these indices. Returns the passes it takes, at least one: a random basis
  // needs no gradient, and its pass only tells the step's loss.
  int begin(std::vector<std::size_t> indices);
  int begin();  // of all layers
  void begin_pass(int pass);
  std::vector<at::Tensor> accumulators();  // of the running pass, fp32
  void end_pass(int pass, dist::Communicator& comm);

  bool finite() const noexcept { return finite_; }
  // Layers of this probe by position, 0 to size() - 1, in the order given to begin.
  std::size_t size() const noexcept { return indices_.size(); }
  std::size_t index(std::size_t position) const { return indices_[position]; }
  bool owns(std::size_t position, const dist::Communicator& comm) const {
    return owner(position, comm) == comm.rank();
  }
  // The new basis; once, on the rank that owns the layer.
  Projector take(std::size_t position);
  // Broadcasts tensors from the layer's owner.
  void share(const std::vector<at::Tensor>& tensors, std::size_t position, dist::Communicator& comm) const;
  // FittedBasis::captured_energy by position, of all ranks' layers.
  std::vector<double> captured_energies(dist::Communicator& comm) const;
  // By position: what the old basis' space holds of the gradient's energy, over what the new one's does; 0 where it is unknown.
  std::vector<double> old_shares(dist::Communicator& comm) const;
  // FittedBasis::energies and total_energy by position.
  std::vector<LayerSpectrum> spectra(dist::Communicator& comm) const;
  void end();  // the next probe draws other random matrices
  std::int64_t count() const noexcept { return probes_; }  // ended ones

  void save(StateWriter& out) const { out.integer("probes", probes_); }
  void load(const StateReader& in) { probes_ = in.integer("probes"); }

 private:
  struct Group {
    std::size_t first, last;  // positions [first, last)
    int first_pass, passes;
  };
  int owner(std::size_t position, const dist::Communicator& comm) const {
    return static_cast<int>(position % static_cast<std::size_t>(comm.size()));
  }
  ProbedLinear& layer(std::size_t position) const { return *layers_[indices_[position]]; }
  std::int64_t rank_of(const ProbedLinear& layer) const { return rank_.value_or(layer.rank()); }
  std::vector<Group> make_groups() const;
  const Group* running(int pass) const;  // null: the pass only tells the loss
  std::uint64_t sketch_seed(const ProbedLinear& layer) const;
  void fit(std::size_t position, BasisSketch& sketch);

  BasisOptions options_;
  quant::QuantFormat storage_;
  std::uint64_t seed_;
  at::Device device_;
  std::optional<std::int64_t> rank_;
  std::vector<ProbedLinear*> layers_;
  std::int64_t probes_ = 0;  // ended ones

  // Of the running probe.
  std::vector<std::size_t> indices_;
  std::vector<Group> groups_;
  std::vector<std::unique_ptr<BasisSketch>> sketches_;  // of the running group
  std::vector<std::optional<Projector>> fitted_;        // by position; only on the rank that owns it
  std::vector<FittedBasis> facts_;                      // by position, without the bases; blank where another rank owns it
  bool finite_ = true;
};

// Of values that one rank each holds and the others have as 0: all of them, on every rank, bit for bit.
std::vector<double> gathered(const std::vector<double>& values, dist::Communicator& comm);

// Summed in order; 0 of none.
double mean(const std::vector<double>& values);

}  // namespace kumiko::lowrank
