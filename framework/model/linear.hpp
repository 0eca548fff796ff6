// SPDX-License-Identifier: Apache-2.0
// The seam through which a model gets its weight matrices and a method represents them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "framework/core/state.hpp"
#include "framework/model/parameter.hpp"

namespace kumiko {

// Where a matrix sits; `targets` of a method choose among these.
enum class LinearKind { attention, mlp };

// What a backward pass is for: an optimizer step (all parameters) or a probe (the linears that are probing, nothing else).
enum class BackwardMode { update, probe };

struct LinearSpec {
  std::string name;   // Hugging Face's: "model.layers.0.self_attn.q_proj"
  LinearKind kind = LinearKind::attention;
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
};

// y = x W^T. Forward and backward work on plain tensors, no autograd graph: the block that calls them keeps x.
class Linear {
 public:
  explicit Linear(LinearSpec spec) : spec_(std::move(spec)) {}
  virtual ~Linear() = default;
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  const LinearSpec& spec() const noexcept { return spec_; }

  // x [N, in] in the compute dtype -> [N, out].
  virtual at::Tensor forward(const at::Tensor& x) const = 0;

  // x as given to forward, dy [N, out]. Adds dL/dparameter to the parameters' gradients, or feeds this layer's probe.
  // With `dx`: a defined tensor [N, in] is added to in place, an undefined one is assigned. Null: dL/dx is not needed.
  virtual void backward(const at::Tensor& x, const at::Tensor& dy, at::Tensor* dx, BackwardMode mode) = 0;

  // True while this layer wants dy although no parameter below it may be trained (a probe).
  virtual bool probing() const noexcept { return false; }

  virtual at::Tensor effective_weight() const = 0;   // [out, in], fp32: what the layer multiplies by; for export and tests
  virtual std::vector<Parameter*> parameters() = 0;
  virtual void save(StateWriter& out) const = 0;     // names begin with spec().name
  virtual void load(const StateReader& in) = 0;
  virtual std::int64_t frozen_nbytes() const { return 0; }   // bytes besides the parameters

 private:
  LinearSpec spec_;
};

class LinearFactory {
 public:
  virtual ~LinearFactory() = default;
  // `initial`: [out, in] fp32; the layer represents it as well as it can and does not keep it.
  virtual std::unique_ptr<Linear> make_linear(const LinearSpec& spec, at::Tensor initial) = 0;
};

// grad += scale a b, grad in fp32: in one call where a and b are fp32 too, else through the product in their dtype.
void add_grad(at::Tensor& grad, const at::Tensor& a, const at::Tensor& b, double scale = 1.0);

// dx += dy W or dx = dy W: the one place that says how input gradients are summed.
void add_input_grad(at::Tensor* dx, const at::Tensor& dy, const at::Tensor& weight);

}  // namespace kumiko
