// SPDX-License-Identifier: Apache-2.0
// Every pair of method, optimizer, codec, precision and way of stepping: ten steps of a tiny model, built from a recipe as
// `kumiko train` builds it, or a refusal that says why.
#include <cmath>
#include <optional>

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/thread_group.hpp"
#include "framework/model/lr_schedule.hpp"
#include "framework/train/trainer.hpp"
#include "tests/support/covering.hpp"
#include "tests/support/memory_state.hpp"
#include "tests/train/trainer_rig.hpp"
#include "tools/assemble.hpp"

namespace kumiko {
namespace {

using test::Covering;
using test::CoveringRow;
using ::testing::HasSubstr;

constexpr std::int64_t kSequences = 8;
constexpr std::int64_t kLength = 12;
constexpr int kSteps = 10;

bool is_one_of(const std::string& value, const std::vector<std::string>& words) {
  return std::find(words.begin(), words.end(), value) != words.end();
}

const std::vector<std::string> kProjected = {"loqt", "loqt_nq", "galore", "q_galore"};
const std::vector<std::string> kRequantizing = {"full", "relora", "galore", "q_galore", "apollo", "apollo_mini", "q_apollo", "q_apollo_mini",
                                                "scale", "loqt", "loqt_nq"};

std::vector<test::CoveredFactor> factors() {
  return {{"method", {"full", "low_rank", "lora", "qlora", "relora", "galore", "q_galore", "apollo", "apollo_mini", "q_apollo",
                      "q_apollo_mini", "scale", "loqt", "loqt_nq"}},
          {"optimizer", {"adamw", "adamw_bf16", "adam8bit", "adafactor", "sgd", "muon", "column_norm"}},
          {"weights", {"none", "nf4", "fp4", "int4", "int8"}},
          {"basis", {"none", "nf4", "fp4", "int4", "int8"}},
          {"solver", {"range_finder", "svd", "eigh", "random"}},
          {"moments", {"keep", "reset", "rotate"}},
          {"block_size", {"32", "64", "4096"}},
          {"double_quant", {"true", "false"}},
          {"rounding", {"nearest", "stochastic"}},
          {"precision", {"fp32", "bf16", "fp16"}},
          {"param_dtype", {"fp32", "bf16"}},
          {"recompute", {"none", "block"}},
          {"micro_batches", {"1", "4"}},
          {"per_layer_updates", {"false", "true"}},
          {"grad_clip", {"0.0", "1.0"}},
          {"deterministic", {"false", "true"}},
          {"tie_embeddings", {"false", "true"}},
          {"ranks", {"1", "2"}}};
}

std::string value(const CoveringRow& row, const std::string& name) {
  const auto found = row.find(name);
  return found == row.end() ? "" : found->second;
}

// Keys that a method does not have stay at one value, which the recipe leaves out.
bool has_keys_for(const CoveringRow& row) {
  const std::string method = value(row, "method");
  if (method.empty()) return true;
  const auto only = [&](const char* name, const char* neutral) { return is_one_of(value(row, name), {"", neutral}); };
  if (method == "low_rank" && !only("weights", "none")) return false;
  if (!is_one_of(method, kProjected) && !(only("basis", "none") && only("solver", "range_finder") && only("moments", "keep"))) return false;
  return is_one_of(method, kRequantizing) || only("rounding", "nearest");
}

// What validation refuses, and the words that say why.
std::optional<std::string> refusal_of(const CoveringRow& row) {
  const bool by_layer = value(row, "per_layer_updates") == "true";
  if (by_layer && value(row, "grad_clip") == "1.0") return "per_layer_updates: cannot go with train.grad_clip";
  if (by_layer && value(row, "precision") == "fp16") return "per_layer_updates: cannot go with train.precision fp16";
  if (by_layer && value(row, "deterministic") == "true" && value(row, "micro_batches") == "4") {
    return "per_layer_updates: cannot go with train.deterministic";
  }
  if (value(row, "method") == "q_galore" && value(row, "solver") == "random") return "refresh.kind: is lazy";
  return std::nullopt;
}

std::string optimizer_block(const std::string& name) {
  if (name == "adamw_bf16") return "{name: adamw, state: bf16, lr: 0.003}";
  if (name == "adam8bit") return "{name: adam8bit, min_8bit_size: 256, lr: 0.003}";
  if (name == "sgd") return "{name: sgd, momentum: 0.9, lr: 0.03}";
  return "{name: " + name + ", lr: 0.003, weight_decay: 0.01}";
}

std::string method_block(const CoveringRow& row) {
  const std::string method = row.at("method");
  std::string block = "{name: " + method;
  if (!is_one_of(method, {"full", "scale"})) block += is_one_of(method, {"apollo_mini", "q_apollo_mini"}) ? ", rank: 1" : ", rank: 8";
  if (is_one_of(method, {"apollo", "apollo_mini", "q_apollo", "q_apollo_mini"})) block += ", refresh: 4";
  if (is_one_of(method, kProjected)) {
    block += ", moments: " + row.at("moments") + ", basis: {solver: " + row.at("solver") + "}, schedule: {kind: static, tau: 3}";
  }
  if (method == "relora") block += ", schedule: {kind: static, tau: 4}, restart_warmup_steps: 1";
  if (method != "low_rank") {
    block += ", quantization: {weights: " + row.at("weights") + ", block_size: " + row.at("block_size") + ", double_quant: " + row.at("double_quant");
    if (is_one_of(method, kProjected)) block += ", basis: " + row.at("basis");
    if (is_one_of(method, kRequantizing)) block += ", rounding: " + row.at("rounding");
    block += "}";
  }
  return block + "}";
}

std::string recipe_of(const CoveringRow& row) {
  const std::int64_t micro_batch = kSequences / std::stoll(row.at("ranks")) / std::stoll(row.at("micro_batches"));
  return concat("model: {vocab_size: 61, hidden_size: 32, intermediate_size: 43, n_layers: 2, n_heads: 4, n_kv_heads: 2, "
                "max_sequence_length: 64, init_std: 0.2, tie_embeddings: ", row.at("tie_embeddings"), "}\n"
                "data: {train: none-*.h5, sequence_length: ", kLength, "}\n"
                "method: ", method_block(row), "\n"
                "optimizer: ", optimizer_block(row.at("optimizer")), "\n"
                "lr_schedule: {kind: constant, warmup_steps: 0}\n"
                "train: {steps: ", kSteps, ", global_batch_size: ", kSequences, ", micro_batch_size: ", micro_batch,
                ", precision: ", row.at("precision"), ", param_dtype: ", row.at("param_dtype"), ", recompute: ", row.at("recompute"),
                ", per_layer_updates: ", row.at("per_layer_updates"), ", grad_clip: ", row.at("grad_clip"),
                ", deterministic: ", row.at("deterministic"), "}\n");
}

// The parts of a run on one rank, over the same eight sequences at every step.
struct RankRun {
  tools::Assembly assembly;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<LrSchedule> lr;
  std::unique_ptr<test::StepSource> source;
  std::unique_ptr<Trainer> trainer;

  RankRun(const CoveringRow& row, dist::Communicator& comm)
      : assembly(Recipe::parse(ConfigNode::parse_text(recipe_of(row), "recipe")), 61, 2) {
    const Recipe& recipe = assembly.recipe;
    recipe.validate(comm.size());
    at::set_num_threads(1);
    assembly.make_model();
    optimizer = std::make_unique<Optimizer>(recipe.optimizer, assembly.model->parameters(), *assembly.method);
    lr = std::make_unique<LrSchedule>(recipe.lr_schedule, recipe.optimizer.lr, recipe.train.steps);
    const std::int64_t rows = *recipe.train.micro_batch_size;
    source = std::make_unique<test::StepSource>([rows, rank = comm.rank(), size = comm.size()](std::int64_t) {
      const at::Tensor stream = test::random_tokens(kSequences, kLength + 1, 61, 3);
      test::Batches batches;
      const std::int64_t share = kSequences / size;
      for (std::int64_t begin = rank * share; begin < (rank + 1) * share; begin += rows) {
        const at::Tensor cut = stream.narrow(0, begin, rows);
        batches.push_back({cut.narrow(1, 0, kLength).contiguous(), cut.narrow(1, 1, kLength).contiguous(), rows * kLength});
      }
      return batches;
    });
    trainer = std::make_unique<Trainer>(recipe.train, Trainer::Parts{*assembly.model, *assembly.method, *optimizer, *lr, *source, comm, dist::Wire::native});
  }
  test::MemoryState state() const {
    test::MemoryState saved;
    trainer->save(saved);
    return saved;
  }
};

// Ten steps, and the last five once more from the state in the middle.
void run(const CoveringRow& row, dist::Communicator& comm, test::MemoryState& end) {
  RankRun unbroken(row, comm), resumed(row, comm);
  std::vector<double> losses;
  for (int i = 0; i < kSteps; ++i) {
    if (i == kSteps / 2) resumed.trainer->load(unbroken.state());
    losses.push_back(unbroken.trainer->step().loss);
  }
  for (const double loss : losses) ASSERT_TRUE(std::isfinite(loss)) << ::testing::PrintToString(losses);
  EXPECT_LT(losses.back(), losses.front()) << ::testing::PrintToString(losses);
  for (int i = kSteps / 2; i < kSteps; ++i) EXPECT_EQ(resumed.trainer->step().loss, losses[static_cast<std::size_t>(i)]) << "resumed, step " << i;
  end = unbroken.state();
  test::expect_same_state(resumed.state(), end);
}

const Covering& covering() {
  static const Covering rows(factors(), [](const CoveringRow& part) { return has_keys_for(part) && !refusal_of(part); });
  return rows;
}

TEST(Pairwise, EveryPairStandsInSomeRow) {
  std::set<CoveringRow> seen;
  for (const auto& row : covering().rows()) {
    ASSERT_EQ(row.size(), factors().size());
    for (auto a = row.begin(); a != row.end(); ++a) {
      for (auto b = std::next(a); b != row.end(); ++b) seen.insert({*a, *b});
    }
  }
  EXPECT_EQ(seen.size(), covering().pairs() - covering().unreachable());
  EXPECT_EQ(covering().unreachable(), 0U);
  RecordProperty("pairs", static_cast<int>(covering().pairs()));
  RecordProperty("rows", static_cast<int>(covering().rows().size()));
}

TEST(Pairwise, EveryRowTrainsAndResumes) {
  for (const auto& row : covering().rows()) {
    SCOPED_TRACE(recipe_of(row) + "ranks: " + row.at("ranks"));
    const int ranks = std::stoi(row.at("ranks"));
    std::vector<test::MemoryState> ends(static_cast<std::size_t>(ranks));
    try {
      dist::run_thread_group(ranks, [&](dist::Communicator& comm) { run(row, comm, ends[static_cast<std::size_t>(comm.rank())]); });
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
      continue;
    }
    if (ranks == 2 && !HasFailure()) test::expect_same_state(ends[1], ends[0]);
  }
}

TEST(Pairwise, WhatIsLeftOutIsRefusedWithTheReason) {
  const auto comm = dist::make_solo();
  const CoveringRow plain = [] {
    CoveringRow row;
    for (const auto& factor : factors()) row[factor.name] = factor.values.front();
    return row;
  }();
  std::vector<CoveringRow> refused;
  for (const auto& change : std::vector<CoveringRow>{{{"grad_clip", "1.0"}}, {{"precision", "fp16"}},
                                                     {{"deterministic", "true"}, {"micro_batches", "4"}}}) {
    CoveringRow row = plain;
    row["per_layer_updates"] = "true";
    for (const auto& [name, word] : change) row[name] = word;
    refused.push_back(row);
  }
  refused.push_back(plain);
  refused.back()["method"] = "q_galore";
  refused.back()["solver"] = "random";
  for (const auto& row : refused) {
    ASSERT_TRUE(refusal_of(row).has_value());
    try {
      RankRun run(row, *comm);
      ADD_FAILURE() << "not refused: " << recipe_of(row);
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr(*refusal_of(row)));
    }
  }
}

}  // namespace
}  // namespace kumiko
