// SPDX-License-Identifier: Apache-2.0
#include "framework/train/hf_export.hpp"

#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "framework/core/error.hpp"
#include "framework/train/safetensors.hpp"
#include "tests/support/corpus.hpp"
#include "tests/train/trainer_rig.hpp"

namespace kumiko {
namespace {

using test::Rig;
using test::RigOptions;
using test::TempFolder;

struct Exported {
  const char* name;
  const char* method;
  at::ScalarType dtype;
  bool tied;
};

class HfExport : public ::testing::TestWithParam<Exported> {
 protected:
  HfExport() : rig_(options()) { rig_.steps(6); }  // a LoQT layer has a factor beside a merged weight

  static RigOptions options() {
    RigOptions options{.method = GetParam().method};
    if (options.method != "full") options.method_yaml = "{rank: 8, schedule: {kind: static, tau: 3}}";
    options.model.vocab_size = test::small_tokenizer().vocab_size();
    options.model.tie_embeddings = GetParam().tied;
    return options;
  }
  // Hugging Face's names and shapes of a LLaMA, written out: hidden 32, intermediate 43, 4 heads and 2 for
  // keys, of 8.
  static std::map<std::string, std::vector<std::int64_t>> shapes() {
    const std::int64_t vocab = test::small_tokenizer().vocab_size();
    std::map<std::string, std::vector<std::int64_t>> result = {{"model.embed_tokens.weight", {vocab, 32}},
                                                               {"model.norm.weight", {32}}};
    if (!GetParam().tied) result["lm_head.weight"] = {vocab, 32};
    for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
      const std::string at = layer;
      result[at + "input_layernorm.weight"] = {32};
      result[at + "post_attention_layernorm.weight"] = {32};
      result[at + "self_attn.q_proj.weight"] = {32, 32};
      result[at + "self_attn.k_proj.weight"] = {16, 32};
      result[at + "self_attn.v_proj.weight"] = {16, 32};
      result[at + "self_attn.o_proj.weight"] = {32, 32};
      result[at + "mlp.gate_proj.weight"] = {43, 32};
      result[at + "mlp.up_proj.weight"] = {43, 32};
      result[at + "mlp.down_proj.weight"] = {32, 43};
    }
    return result;
  }
  // What each tensor is to hold.
  std::map<std::string, at::Tensor> values() {
    std::map<std::string, at::Tensor> result;
    for (Parameter* p : rig_.run.model->parameters()) {
      if (p->role != ParamRole::factor) result[p->name] = p->value;
    }
    for (Linear* linear : rig_.run.model->linears())
      result[linear->spec().name + ".weight"] = linear->effective_weight();
    return result;
  }

  Rig rig_;
  TempFolder folder_;
};

TEST_P(HfExport, WritesTheWeightsByTheirNames) {
  const auto before = rig_.state();
  const auto target = folder_ / "deep/final";
  export_hf(*rig_.run.model, test::small_tokenizer(), GetParam().dtype, target);
  test::expect_same_state(rig_.state(), before);
  const auto file = SafetensorsFile::open(target / "model.safetensors");
  std::map<std::string, std::vector<std::int64_t>> found;
  for (const auto& entry : file.entries()) {
    found[entry.name] = entry.shape;
    EXPECT_EQ(entry.dtype, GetParam().dtype) << entry.name;
  }
  EXPECT_EQ(found, shapes());
  EXPECT_EQ(file.has("lm_head.weight"), !GetParam().tied);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  for (const auto& [name, value] : values())
    EXPECT_TRUE(test::same_bits(file.tensor(name), value.to(GetParam().dtype))) << name;
}

// A dense model with the exported matrices is the trained one.
TEST_P(HfExport, HoldsTheWholeModel) {
  export_hf(*rig_.run.model, test::small_tokenizer(), at::kFloat, folder_.path());
  const auto file = SafetensorsFile::open(folder_ / "model.safetensors");
  RigOptions dense = options();
  dense.method = "full";
  dense.method_yaml = "";
  Rig other(dense);
  for (Parameter* p : other.run.model->parameters()) p->value.copy_(file.tensor(p->name));
  const at::Tensor tokens = test::random_tokens(2, 20, dense.model.vocab_size, 6);
  const at::Tensor expected = rig_.run.model->logits(tokens);
  EXPECT_LT((other.run.model->logits(tokens) - expected).abs().max().item<double>(),
            1e-4 * expected.abs().max().item<double>());
}

TEST_P(HfExport, DescribesTheModel) {
  export_hf(*rig_.run.model, test::small_tokenizer(), GetParam().dtype, folder_.path());
  const auto config = nlohmann::json::parse(test::read_text(folder_ / "config.json"));
  const auto& tokenizer = test::small_tokenizer();
  const nlohmann::json expected = {
      {"architectures", {"LlamaForCausalLM"}},
      {"model_type", "llama"},
      {"hidden_size", 32},
      {"intermediate_size", 43},
      {"num_hidden_layers", 2},
      {"num_attention_heads", 4},
      {"num_key_value_heads", 2},
      {"head_dim", 8},
      {"vocab_size", tokenizer.vocab_size()},
      {"max_position_embeddings", 64},
      {"rms_norm_eps", 1e-6},
      {"rope_theta", 10000.0},
      {"hidden_act", "silu"},
      {"attention_bias", false},
      {"mlp_bias", false},
      {"initializer_range", 0.2},
      {"tie_word_embeddings", GetParam().tied},
      {"bos_token_id", tokenizer.bos_id()},
      {"eos_token_id", tokenizer.eos_id()},
      {"torch_dtype", GetParam().dtype == at::kBFloat16 ? "bfloat16" : "float32"}};
  EXPECT_EQ(config, expected);
}

TEST_P(HfExport, ReplacesTheFilesOfAnEarlierOne) {
  for (int i = 0; i < 2; ++i) {
    export_hf(*rig_.run.model, test::small_tokenizer(), GetParam().dtype, folder_.path());
    rig_.trainer.step();
  }
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path()))
    files.insert(entry.path().filename());
  EXPECT_EQ(files, (std::set<std::string>{"config.json", "model.safetensors", "special_tokens_map.json",
                                          "tokenizer.json", "tokenizer_config.json"}));
}

INSTANTIATE_TEST_SUITE_P(Models, HfExport,
                         ::testing::Values(Exported{"full_fp32", "full", at::kFloat, false},
                                           Exported{"loqt_bf16", "loqt", at::kBFloat16, false},
                                           Exported{"loqt_fp32_tied", "loqt", at::kFloat, true},
                                           Exported{"loqt_nq_bf16_tied", "loqt_nq", at::kBFloat16, true}),
                         [](const auto& info) { return info.param.name; });

TEST(HfExportFolder, ThatCannotBeMadeIsNamed) {
  TempFolder folder;
  test::write_text(folder / "taken", "a file");
  RigOptions options;
  options.model.vocab_size = test::small_tokenizer().vocab_size();
  Rig rig(options);
  try {
    export_hf(*rig.run.model, test::small_tokenizer(), at::kFloat, folder / "taken/final");
    FAIL() << "a folder below a file passed";
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr((folder / "taken/final").string()));
  }
}

}  // namespace
}  // namespace kumiko
