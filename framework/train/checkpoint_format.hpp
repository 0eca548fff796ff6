// SPDX-License-Identifier: Apache-2.0
// What the writer and the reader of checkpoints agree on.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <c10/core/ScalarType.h>

#include "data/h5.hpp"

namespace kumiko {

inline constexpr std::size_t kMaxManifestBytes = std::size_t{64} << 20;

// How a tensor lies in HDF5: its own type, booleans as bytes. Throws CheckpointError for a dtype that
// checkpoints do not hold.
data::H5Dtype h5_dtype(at::ScalarType dtype);
std::string dataset_name(std::string_view tensor_name);  // flat: ':' for '/'
std::string state_file_name(std::size_t index);          // state-0000.h5

}  // namespace kumiko
