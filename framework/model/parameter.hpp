// SPDX-License-Identifier: Apache-2.0
// Trained tensors and their gradients.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kumiko {

enum class ParamRole { embedding, head, norm, matrix, factor };

// A trained tensor. `grad` is fp32, has the sizes of `value` and is undefined until a GradBuffer binds it; backward passes
// add to it. The optimizer changes `value` in place.
struct Parameter {
  std::string name;
  ParamRole role = ParamRole::matrix;
  at::Tensor value;
  at::Tensor grad;
};

// One flat fp32 buffer for the gradients of all parameters, so that zeroing, norms, the tree over micro-batches and the
// all-reduce are one operation each.
class GradBuffer {
 public:
  // Binds each parameter's grad to a view of the buffer. The parameters must outlive the buffer.
  explicit GradBuffer(const std::vector<Parameter*>& parameters);

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
