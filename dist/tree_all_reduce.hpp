// SPDX-License-Identifier: Apache-2.0
// The one all-reduce. Recursive halving with the partners rank^1, rank^2, rank^4, ..., then doubling back
// (Thakur, Rabenseifner, Gropp 2005, section 4.5, with the nearest partner first): each rank sends 2 (N - 1)
// / N of the tensor, and every element is summed in the fixed binary tree ((0+1)+(2+3))+((4+5)+(6+7)). A
// small tensor goes whole at each level: the same tree, half the messages.
#pragma once

#include <ATen/core/Tensor.h>

#include "dist/communicator.hpp"
#include "dist/point_to_point.hpp"

namespace kumiko::dist {

// In place, on a contiguous CPU tensor; all ranks end with the same bits. With N ranks and P the power of two
// at or below N, rank P+i is first added to rank i.
//
// - fp32, fp64, int64, int32, uint8: partial sums have the tensor's dtype.
//
// - bf16, fp16: partial sums are fp32 and travel as fp32 (the ranks' own values travel in 16 bits); one
//   rounding, at the end.
//
// - sums of fp32 with Wire::bf16: each rank's values are rounded to bf16, then as for bf16; the result is
//   an fp32 tensor of bf16 values.
//
// Wire::fp32 gives for 16-bit tensors the result of Wire::native, whose sums lose nothing on the way. max
// spreads NaN.
void tree_all_reduce(PointToPoint& channel, at::Tensor& tensor, ReduceOp op, Wire wire);

}  // namespace kumiko::dist
