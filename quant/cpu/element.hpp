// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "framework/core/error.hpp"

namespace kumiko::quant::cpu {

enum class Element { fp32, bf16, fp16 };

// Throws ShapeError for another dtype.
inline Element element_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return Element::fp32;
    case at::kBFloat16:
      return Element::bf16;
    case at::kHalf:
      return Element::fp16;
    default:
      throw ShapeError(concat("a block codec takes fp32, bf16 and fp16, not ", dtype));
  }
}

}  // namespace kumiko::quant::cpu
