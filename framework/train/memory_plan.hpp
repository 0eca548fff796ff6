// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "framework/model/memory_plan.hpp"
#include "framework/model/method.hpp"
#include "framework/model/model_options.hpp"
#include "framework/train/train_options.hpp"

namespace kumiko {

// Bytes of one of `ranks` ranks before anything is allocated. `method` is validated; micro_batch sequences of sequence_length tokens.
MemoryPlan plan_memory(const ModelOptions& model, const Method& method, const TrainOptions& train, std::int64_t micro_batch,
                       std::int64_t sequence_length, int ranks = 1);

// Weights and optimizer states of full-rank AdamW at this run's precision: parameters in param_dtype and two fp32 moments.
std::int64_t full_rank_state_bytes(const ModelOptions& model, at::ScalarType param_dtype);

// A table for people.
std::string describe(const MemoryPlan& plan);

}  // namespace kumiko
