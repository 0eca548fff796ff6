// SPDX-License-Identifier: Apache-2.0
#include "framework/train/checkpoint_format.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

#include "framework/core/error.hpp"

namespace kumiko {

data::H5Dtype h5_dtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return data::H5Dtype::f32;
    case at::kDouble:
      return data::H5Dtype::f64;
    case at::kHalf:
      return data::H5Dtype::f16;
    case at::kBFloat16:
      return data::H5Dtype::bf16;
    case at::kByte:
      return data::H5Dtype::u8;
    case at::kBool:
      return data::H5Dtype::u8;
    case at::kChar:
      return data::H5Dtype::i8;
    case at::kInt:
      return data::H5Dtype::i32;
    case at::kLong:
      return data::H5Dtype::i64;
    default:
      throw CheckpointError(concat("checkpoints hold no tensors of dtype ", dtype));
  }
}

std::string dataset_name(std::string_view tensor_name) {
  std::string name(tensor_name);
  std::replace(name.begin(), name.end(), '/', ':');
  return name;
}

std::string state_file_name(std::size_t index) {
  std::array<char, 40> name{};
  std::snprintf(name.data(), name.size(), "state-%04zu.h5", index);
  return name.data();
}

}  // namespace kumiko
