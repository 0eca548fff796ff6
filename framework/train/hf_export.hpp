// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "data/tokenizer.hpp"
#include "framework/model/language_model.hpp"

namespace kumiko {

// Writes a Hugging Face folder: config.json, model.safetensors (dense weights in `dtype`: bf16 or fp32) and the tokenizer's
// files. One matrix is dense at a time. Files are replaced one by one, each durably. Throws CheckpointError with path and reason.
void export_hf(LanguageModel& model, const data::Tokenizer& tokenizer, at::ScalarType dtype, const std::filesystem::path& folder);

}  // namespace kumiko
