// SPDX-License-Identifier: Apache-2.0
// The way a newcomer takes: tokenizer, shards, a plan, a run, and what is done with the run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/integration/kumiko_run.hpp"

namespace kumiko::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// The value behind "name: " at the start of a line.
std::string value_of(const std::string& output, const std::string& name) {
  std::istringstream in(output);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(name + ": ")) return line.substr(name.size() + 2);
  }
  ADD_FAILURE() << "no line '" << name << ": ' in " << output;
  return "";
}

class Cli : public ::testing::Test {
 protected:
  std::string run(const std::vector<std::string>& command) {
    const Finished result = work_.kumiko(command);
    EXPECT_EQ(result.exit_code, 0) << ::testing::PrintToString(command) << "\n" << result.output;
    return result.output;
  }
  void train_tokenizer() { run({"tokenizer", "train", "corpus", "-o", "t.model", "--vocab-size", "384"}); }
  std::string prepare(const std::string& input, const std::string& output) {
    return run({"prepare", input, "--tokenizer", "t.model", "-o", output, "--validation", "0.1"});
  }
  std::string shard_digest(const std::string& shard) {
    std::string text = run({"inspect", shard});
    text.pop_back();
    return text.substr(text.rfind('\n') + 1);
  }
  std::string generate(std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"generate", "run", "--prompt", "the saw", "--max-tokens", "40"});
    return run(flags);
  }

  Workspace work_;
};

TEST_F(Cli, PreparesFoldersAndPackedJsonLinesToTheSameShards) {
  train_tokenizer();
  EXPECT_THAT(prepare("corpus", "folder"), HasSubstr("0 duplicates dropped"));
  std::vector<std::string> documents;
  for (const auto& item : std::filesystem::directory_iterator(work_ / "corpus")) documents.push_back(item.path().filename().string());
  std::sort(documents.begin(), documents.end());   // as folders are read
  std::string lines;
  for (const auto& name : documents) lines += nlohmann::json{{"id", name}, {"text", read_text(work_ / ("corpus/" + name))}}.dump() + "\n";
  write_text(work_ / "all.jsonl", lines);
  for (const auto& [tool, ending] : std::vector<std::pair<std::string, std::string>>{{"gzip", ".gz"}, {"zstd", ".zst"}}) {
    if (run_command({tool, "-q", "-k", "all.jsonl"}, work_.path()).exit_code != 0) GTEST_SKIP() << "needs " << tool;
    EXPECT_THAT(prepare("all.jsonl" + ending, "packed" + ending), HasSubstr("read        1 files"));
    for (const std::string shard : {"/train-00000.h5", "/val-00000.h5"}) {
      EXPECT_EQ(shard_digest("packed" + ending + shard), shard_digest("folder" + shard));
    }
  }
}

TEST_F(Cli, TwoRunsThatNeedTheSameShardsMakeThemOnce) {
  const auto command = [](const std::string& run) {
    return std::vector<std::string>{kBinary, "train", "recipe.yaml", "train.steps=2", "lr_schedule.warmup_steps=0", "output_dir=" + run};
  };
  Process a(command("a"), work_.path(), work_ / "a.log");
  Process b(command("b"), work_.path(), work_ / "b.log");
  const Finished first = a.wait();
  const Finished second = b.wait();
  EXPECT_EQ(first.exit_code, 0) << first.output;
  EXPECT_EQ(second.exit_code, 0) << second.output;
  EXPECT_EQ(work_.digest("a"), work_.digest("b"));
  const auto made = [](const Finished& result) { return result.output.find("preparing them") != std::string::npos; };
  EXPECT_TRUE(made(first) != made(second)) << first.output << second.output;
}

TEST_F(Cli, DropsDuplicatesAndTellsTheirNumber) {
  train_tokenizer();
  std::filesystem::copy(work_ / "corpus/0.txt", work_ / "corpus/again.txt");
  std::filesystem::copy(work_ / "corpus/1.txt", work_ / "corpus/once more.txt");
  EXPECT_THAT(prepare("corpus", "shards"), HasSubstr("2 duplicates dropped"));
}

TEST_F(Cli, DryRunPrintsRecipeAndPlanAndWritesNothing) {
  for (const bool prepared : {false, true}) {   // the plan needs no shards
    if (prepared) {
      train_tokenizer();
      prepare("corpus", "shards");
    }
    const std::string plan = run({"train", "recipe.yaml", "--dry-run"});
    for (const char* part : {"compensation_iterations: 5", "vocab_size: 384", "memory plan", "weights", "scales", "basis", "factor", "moments",
                             "gradients", "activations", "total", "full-rank AdamW"}) {
      EXPECT_THAT(plan, HasSubstr(part));
    }
    EXPECT_FALSE(std::filesystem::exists(work_ / "run"));
    EXPECT_EQ(std::filesystem::exists(work_ / "shards"), prepared);
  }
}

TEST_F(Cli, TrainsFromOwnShardsAndTheRunHoldsWhatIsPromised) {
  train_tokenizer();
  prepare("corpus", "shards");
  const std::string output = run({"train", "recipe.yaml"});
  EXPECT_THAT(output, Not(HasSubstr("preparing")));
  EXPECT_THAT(output, HasSubstr("run complete: run"));
  for (const char* file : {"recipe.yaml", "metrics.jsonl", "summary.json", "checkpoints/step-00000060/manifest.json", "final/config.json",
                           "final/model.safetensors", "final/tokenizer.json", "final/tokenizer_config.json", "final/special_tokens_map.json"}) {
    EXPECT_TRUE(std::filesystem::is_regular_file(work_ / "run" / file)) << file;
  }
  const auto summary = nlohmann::json::parse(read_text(work_ / "run/summary.json"));
  for (const char* key : {"steps", "complete", "validation_perplexity", "ppl_published_convention", "unigram_perplexity", "merges", "tokens_per_s",
                          "seconds", "peak_memory_bytes", "state_bytes", "full_rank_state_bytes"}) {
    EXPECT_TRUE(summary.contains(key)) << key;
  }
  EXPECT_EQ(summary["steps"], 60);
  EXPECT_EQ(summary["complete"], true);
  EXPECT_EQ(summary["merges"], 3);
  EXPECT_EQ(value_of(output, "merges"), "3");
  EXPECT_LT(summary["validation_perplexity"].get<double>(), summary["unigram_perplexity"].get<double>() / 4);
  EXPECT_LT(summary["ppl_published_convention"].get<double>(), summary["validation_perplexity"].get<double>());
  const auto config = nlohmann::json::parse(read_text(work_ / "run/final/config.json"));
  EXPECT_EQ(config["vocab_size"], 384);
  EXPECT_EQ(config["num_key_value_heads"], 2);
  const auto metrics = work_.metrics("run");
  EXPECT_EQ(metrics.size(), 60u);
  EXPECT_EQ(std::count_if(metrics.begin(), metrics.end(), [](const auto& line) { return line.contains("eval_loss"); }), 3);
  EXPECT_EQ(metrics.back()["eval_ppl"], summary["validation_perplexity"]);
  const std::string again = run({"train", "recipe.yaml"});
  EXPECT_THAT(again, HasSubstr("resumed at step 60"));
  EXPECT_EQ(value_of(again, "validation perplexity"), value_of(output, "validation perplexity"));
}

TEST_F(Cli, ResolvedRecipeOfARunIsARecipeForTheSameRun) {
  run({"train", "recipe.yaml", "train.micro_batch_size=auto"});
  EXPECT_THAT(read_text(work_ / "run/recipe.yaml"), HasSubstr("micro_batch_size: 16"));
  std::filesystem::copy_file(work_ / "run/recipe.yaml", work_ / "resolved.yaml");
  run({"train", "resolved.yaml", "output_dir=second"});
  EXPECT_EQ(work_.digest("second"), work_.digest("run"));
}

TEST_F(Cli, EvalGivesExactlyTheRunsPerplexity) {
  run({"train", "recipe.yaml"});
  const auto summary = nlohmann::json::parse(read_text(work_ / "run/summary.json"));
  const std::string eval = run({"eval", "run"});
  EXPECT_EQ(value_of(eval, "checkpoint"), "run/checkpoints/step-00000060");
  EXPECT_EQ(value_of(eval, "step"), "60");
  EXPECT_EQ(value_of(eval, "tokens"), std::to_string(work_.metrics("run").back()["eval_tokens"].get<int>()));
  EXPECT_EQ(std::stod(value_of(eval, "validation perplexity")), summary["validation_perplexity"].get<double>());
  EXPECT_EQ(std::stod(value_of(eval, "ppl_published_convention")), summary["ppl_published_convention"].get<double>());
  EXPECT_DOUBLE_EQ(std::exp(std::stod(value_of(eval, "validation loss"))), summary["validation_perplexity"].get<double>());
  EXPECT_EQ(value_of(run({"eval", "run", "--tokens", "500"}), "tokens"), "500");
  const std::string older = run({"eval", "run/checkpoints/step-00000056"});
  EXPECT_EQ(value_of(older, "step"), "56");
  EXPECT_NE(value_of(older, "validation loss"), value_of(eval, "validation loss"));
  const std::string on_training_text = run({"eval", "run", "data.validation=shards/train-*.h5"});
  EXPECT_NE(value_of(on_training_text, "validation loss"), value_of(eval, "validation loss"));
}

TEST_F(Cli, GenerateDependsOnTheSeedOnly) {
  run({"train", "recipe.yaml"});
  const std::string text = generate({"--seed", "1", "--temperature", "1.2"});
  EXPECT_TRUE(text.starts_with("the saw")) << text;
  EXPECT_GT(text.size(), 20u);
  EXPECT_EQ(generate({"--seed", "1", "--temperature", "1.2"}), text);
  EXPECT_NE(generate({"--seed", "2", "--temperature", "1.2"}), text);
  const std::string likeliest = generate({"--temperature", "0", "--seed", "1"});
  EXPECT_EQ(generate({"--temperature", "0", "--seed", "2"}), likeliest);
  EXPECT_EQ(generate({"--top-k", "1", "--seed", "3"}), likeliest);
  EXPECT_EQ(generate({"--top-p", "0", "--seed", "4"}), likeliest);
}

TEST_F(Cli, GenerateFitsIntoTheContextAndSaysSo) {
  run({"train", "recipe.yaml", "train.steps=8"});
  run({"generate", "run"});   // 128 positions for the default of 128 new tokens
  std::string prompt;
  for (int i = 0; i < 30; ++i) prompt += "the saw cuts the cedar panel. ";
  EXPECT_THAT(run({"generate", "run", "--prompt", prompt}), HasSubstr("warning: the prompt has"));
  const Finished too_many = work_.kumiko({"generate", "run", "--max-tokens", "128"});
  EXPECT_EQ(too_many.exit_code, 2);
  EXPECT_THAT(too_many.output, HasSubstr("--max-tokens 128 leaves no room for a prompt: the model has 128 positions; use at most 127"));
  const Finished not_text = work_.kumiko({"generate", "run", "--prompt", "\xff"});
  EXPECT_EQ(not_text.exit_code, 2);
  EXPECT_THAT(not_text.output, HasSubstr("--prompt: text is not UTF-8"));
}

TEST_F(Cli, InspectDescribesRunCheckpointAndShard) {
  run({"train", "recipe.yaml"});
  const std::string of_run = run({"inspect", "run", "--digest"});
  EXPECT_THAT(of_run, HasSubstr("run/checkpoints/step-00000060 (verified)"));
  EXPECT_EQ(value_of(of_run, "step"), "60");
  EXPECT_EQ(run({"inspect", "run/checkpoints/step-00000060", "--digest"}), of_run);
  EXPECT_NE(work_.digest("run/checkpoints/step-00000056"), work_.digest("run"));
  EXPECT_THAT(run({"inspect", "run", "--tensors"}), HasSubstr("model/model.embed_tokens.weight f32 [384, 64]"));
  const std::string of_shard = run({"inspect", "shards/val-00000.h5"});
  EXPECT_EQ(value_of(of_shard, "split"), "validation");
  EXPECT_THAT(value_of(of_shard, "vocabulary"), HasSubstr("384 ids"));
  EXPECT_EQ(shard_digest("shards/val-00000.h5").size(), 64u);
}

}  // namespace
}  // namespace kumiko::test
