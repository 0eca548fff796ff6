// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "dist/communicator.hpp"
#include "framework/model/optimizer.hpp"
#include "framework/model/parameter.hpp"

namespace kumiko {

// Updates each parameter inside the backward pass of a step's last micro-batch, once its gradient is complete and summed over
// ranks. All ranks close their parameters in the same order, that of the backward pass.
class LayerUpdates final : public GradSink {
 public:
  // `owns_gradients`: gradients come into being when opened and go when closed (a step of one micro-batch); otherwise they are
  // bound already and hold what earlier micro-batches added.
  LayerUpdates(Optimizer& optimizer, dist::Communicator& comm, dist::Wire wire, double learning_rate, bool owns_gradients);

  void open(Parameter& parameter) override;
  void close(Parameter& parameter) override;

  double norm() const;                                                   // L2 over the gradients closed so far
  const std::string& first_non_finite() const noexcept { return bad_; }  // from this parameter on nothing was updated; or ""
  std::int64_t peak_nbytes() const noexcept { return peak_bytes_; }      // of gradients it owned at one time

 private:
  Optimizer& optimizer_;
  dist::Communicator& comm_;
  dist::Wire wire_;
  double learning_rate_;
  bool owns_gradients_;
  double squared_norm_ = 0.0;
  std::int64_t held_bytes_ = 0, peak_bytes_ = 0;
  std::string bad_;
};

}  // namespace kumiko
