// SPDX-License-Identifier: Apache-2.0
// Trained tensors and their gradients.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kumiko {

enum class ParamRole { embedding, head, norm, matrix, factor };

// Receives the updates of a parameter whose stored form is not a dense tensor of its gradient's sizes.
class UpdateTarget {
 public:
  virtual ~UpdateTarget() = default;
  // update: fp32 of the gradient's sizes. Moves what is stored by it, lifted to the full space where the gradient is projected;
  // before that what is stored shrinks by `decay`, its share in [0, 1). `update` may be written to.
  virtual void apply_update(at::Tensor& update, double decay) = 0;
};

// A trained tensor. `grad` is fp32 and undefined until a GradBuffer or a trainer binds it; backward passes add to it. The
// optimizer changes `value` in place, or, where `target` is set, hands it the update.
struct Parameter {
  std::string name;
  ParamRole role = ParamRole::matrix;
  at::Tensor value;                       // undefined where `target` keeps it in another form
  at::Tensor grad;
  UpdateTarget* target = nullptr;
  std::vector<std::int64_t> projected;    // sizes of the gradient where they are not those of `value`
  int output_dim = 0;                     // of a matrix's gradient: the dimension that counts the outputs of its linear map
  bool is_last_layer = false;             // the head, or the embedding that is tied to it

  at::IntArrayRef grad_sizes() const { return target != nullptr ? at::IntArrayRef(projected) : value.sizes(); }
  std::int64_t grad_numel() const { return c10::multiply_integers(grad_sizes()); }
};

// Follows a backward pass: told before the first addition to a parameter's gradient, and when the pass adds no more to it.
class GradSink {
 public:
  virtual ~GradSink() = default;
  virtual void open(Parameter& parameter) = 0;
  virtual void close(Parameter& parameter) = 0;
};

// One flat fp32 buffer for the gradients of all parameters, so that zeroing, norms, the tree over micro-batches and the
// all-reduce are one operation each.
class GradBuffer {
 public:
  // Binds each parameter's grad to a view of the buffer. The parameters must outlive the buffer.
  explicit GradBuffer(const std::vector<Parameter*>& parameters, at::Device device = at::kCPU);

  at::Tensor& flat() noexcept { return flat_; }
  void zero();
  double norm() const;                   // L2 over everything
  std::string first_non_finite() const;  // name of the first parameter with a non-finite gradient, or ""
  std::int64_t nbytes() const;

 private:
  std::vector<Parameter*> parameters_;
  at::Tensor flat_;
};

}  // namespace kumiko
