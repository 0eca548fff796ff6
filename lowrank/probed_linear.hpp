// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <utility>

#include "framework/model/linear.hpp"
#include "lowrank/basis_sketch.hpp"
#include "lowrank/projector.hpp"

namespace kumiko::lowrank {

// A linear over a basis of its gradient, which a BasisProbe finds anew.
class ProbedLinear : public Linear {
 public:
  Side side() const noexcept { return side_; }
  std::int64_t rank() const noexcept { return rank_; }
  bool has_projector() const noexcept { return projector_.has_value(); }  // not before the first probe
  const Projector& projector() const { return *projector_; }

  // Between these, backward in probe mode feeds the sketch with x and dy.
  void begin_probe(BasisSketch& sketch) noexcept { sketch_ = &sketch; }
  void end_probe() noexcept { sketch_ = nullptr; }
  bool probing() const noexcept override { return sketch_ != nullptr; }

 protected:
  // The side is the default one of `spec`.
  ProbedLinear(LinearSpec spec, std::int64_t rank)
      : Linear(std::move(spec)),
        side_(default_side(this->spec().in_features, this->spec().out_features)),
        rank_(rank) {}

  // x [N, in], dy [N, out].
  void feed(const at::Tensor& x, const at::Tensor& dy) {
    if (sketch_ != nullptr) sketch_->add(x, dy);
  }
  std::int64_t basis_rows() const {
    return Projector::basis_rows(side_, spec().in_features, spec().out_features);
  }

  Side side_;
  std::int64_t rank_;
  std::optional<Projector> projector_;

 private:
  BasisSketch* sketch_ = nullptr;
};

}  // namespace kumiko::lowrank
