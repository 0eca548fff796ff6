// SPDX-License-Identifier: Apache-2.0
#include "framework/train/hf_export.hpp"

#include <map>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "data/hf_tokenizer.hpp"
#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/train/safetensors.hpp"

namespace kumiko {
namespace {

nlohmann::ordered_json model_config(const ModelOptions& o, const data::Tokenizer& tokenizer, at::ScalarType dtype) {
  nlohmann::ordered_json config;
  config["architectures"] = {"LlamaForCausalLM"};
  config["model_type"] = "llama";
  config["hidden_size"] = o.hidden_size;
  config["intermediate_size"] = o.intermediate_size;
  config["num_hidden_layers"] = o.n_layers;
  config["num_attention_heads"] = o.n_heads;
  config["num_key_value_heads"] = o.n_kv_heads;
  config["head_dim"] = o.head_dim();
  config["vocab_size"] = o.vocab_size;
  config["max_position_embeddings"] = o.max_sequence_length;
  config["rms_norm_eps"] = o.norm_eps;
  config["rope_theta"] = o.rope_theta;
  config["hidden_act"] = "silu";
  config["attention_bias"] = false;
  config["mlp_bias"] = false;
  config["initializer_range"] = o.init_std;
  config["tie_word_embeddings"] = o.tie_embeddings;
  config["bos_token_id"] = tokenizer.bos_id();
  config["eos_token_id"] = tokenizer.eos_id();
  config["torch_dtype"] = dtype == at::kBFloat16 ? "bfloat16" : "float32";
  return config;
}

void write_json(const std::filesystem::path& path, const nlohmann::ordered_json& json) {
  const std::string text = json.dump(2) + "\n";
  write_file_durably(path, std::as_bytes(std::span(text)));
}

}  // namespace

void export_hf(LanguageModel& model, const data::Tokenizer& tokenizer, at::ScalarType dtype, const std::filesystem::path& folder) {
  std::map<std::string, std::function<at::Tensor()>> sources;
  std::vector<SafetensorsEntry> entries;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, std::function<at::Tensor()> source) {
    entries.push_back({name, dtype, std::move(shape)});
    sources[name] = std::move(source);
  };
  for (Parameter* p : model.parameters()) {
    if (p->role == ParamRole::matrix || p->role == ParamRole::factor) continue;
    add(p->name, p->value.sizes().vec(), [p] { return p->value; });
  }
  for (Linear* linear : model.linears()) {
    add(linear->spec().name + ".weight", {linear->spec().out_features, linear->spec().in_features},
        [linear] { return linear->effective_weight(); });
  }
  try {
    std::filesystem::create_directories(folder);
    write_safetensors(folder / "model.safetensors", entries,
                      [&](std::size_t i) { return sources.at(entries[i].name)().to(dtype); });
    write_json(folder / "config.json", model_config(model.options(), tokenizer, dtype));
    data::export_hf_tokenizer(tokenizer, folder);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw CheckpointError(concat("cannot write the Hugging Face folder ", folder.string(), ": ", error.what()));
  }
}

}  // namespace kumiko
