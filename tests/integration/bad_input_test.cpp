// SPDX-License-Identifier: Apache-2.0
// Recipes and command lines that are wrong: refused with 2 at the place of the mistake, before anything is written.
#include <gtest/gtest.h>

#include "tests/integration/refusal.hpp"

namespace kumiko::test {
namespace {

class BadRecipe : public ::testing::Test {
 protected:
  // Refused as a file and, without touching the disk, before its shards are made.
  void expect_refused(const std::string& recipe, const std::vector<std::string>& words) {
    SCOPED_TRACE(recipe);
    write_text(work_ / "bad.yaml", recipe);
    expect_refusal(work_.kumiko({"train", "bad.yaml"}), 2, words);
    expect_nothing_written();
  }
  void expect_override_refused(const std::vector<std::string>& overrides, const std::vector<std::string>& words) {
    SCOPED_TRACE(::testing::PrintToString(overrides));
    std::vector<std::string> command = {"train", "recipe.yaml"};
    command.insert(command.end(), overrides.begin(), overrides.end());
    expect_refusal(work_.kumiko(command), 2, words);
    expect_nothing_written();
  }
  void expect_nothing_written() {
    EXPECT_FALSE(std::filesystem::exists(work_ / "run"));
    EXPECT_FALSE(std::filesystem::exists(work_ / "shards"));
  }

  Workspace work_;
  const std::string good_ = Workspace::recipe();
};

TEST_F(BadRecipe, UnknownKeyIsNamedWithItsPlaceAndTheNearestKey) {
  expect_refused(replaced(good_, "rank: 16", "rnak: 16"), {"bad.yaml:7:", "method.rnak", "unknown key", "did you mean 'rank'"});
  expect_refused(replaced(good_, "lr: 0.01", "learning_speed: 0.01"), {"bad.yaml:8:", "optimizer.learning_speed", "known here"});
  expect_refused(good_ + "optimiser: {lr: 1}\n", {"bad.yaml:15:1", "optimiser", "did you mean 'optimizer'"});
  expect_override_refused({"train.stepz=4"}, {"override 'train.stepz=4'", "unknown key", "did you mean 'steps'"});
}

TEST_F(BadRecipe, DoubledKeyIsNamedWithBothPlaces) {
  expect_refused(good_ + "log: {every: 2}\n", {"bad.yaml:15:1", "'log'", "twice", "bad.yaml:13:1"});
  expect_refused(replaced(good_, "{lr: 0.01}", "{lr: 0.01, lr: 0.02}"), {"bad.yaml:8:", "'lr'", "twice"});
}

TEST_F(BadRecipe, MistypedValueIsShownWithWhatWasNeeded) {
  expect_refused(replaced(good_, "steps: 60", "steps: sixty"), {"bad.yaml:10:", "train.steps", "found 'sixty'", "needed an integer"});
  expect_refused(replaced(good_, "lr: 0.01", "lr: fast"), {"optimizer.lr", "found 'fast'", "needed a number"});
  expect_refused(replaced(good_, "lr: 0.01", "lr: .nan"), {"optimizer.lr", "found '.nan'", "needed a number"});
  expect_refused(replaced(good_, "method: {name: loqt, rank: 16, schedule: {kind: static, tau: 14}}", "method: loqt"),
                 {"bad.yaml:7:9", "method", "found 'loqt'", "needed a mapping"});
  expect_refused(replaced(good_, "method: {name: loqt, rank: 16, schedule: {kind: static, tau: 14}}\n", ""), {"bad.yaml", "method.name", "missing"});
  expect_override_refused({"train.steps=0"}, {"override 'train.steps=0'", "found '0'", "from 1"});
  expect_override_refused({"train.deterministic=yes"}, {"train.deterministic", "found 'yes'", "true"});
  expect_override_refused({"data.prepare.max_bytes=3qq"}, {"data.prepare.max_bytes", "found '3qq'", "such as"});
}

TEST_F(BadRecipe, AliasBombIsRefusedAtItsFirstAnchor) {
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char key = 'b'; key < 'k'; ++key) {
    const std::string before(1, static_cast<char>(key - 1));
    bomb += std::string(1, key) + ": &" + key + " [*" + before;
    for (int i = 0; i < 8; ++i) bomb += ",*" + before;
    bomb += "]\n";
  }
  expect_refused(bomb, {"bad.yaml:1:4", "anchor '&a'", "write the value out"});
}

TEST_F(BadRecipe, FileThatIsNoSingleMappingIsRefused) {
  expect_refused(good_ + "---\na: 1\n", {"bad.yaml:15:1", "second document", "needed one document"});
  expect_refused("", {"bad.yaml", "empty", "needed a mapping"});
  expect_refused("- 1\n", {"bad.yaml:1:1", "sequence", "needed a mapping"});
  expect_refused("a: [1,\n", {"bad.yaml:1:4", "not valid YAML", "never closed"});
  expect_refused("model: \xff\n", {"bad.yaml:1:8", "not UTF-8"});
  expect_refused("\ttrain: {}\n", {"bad.yaml:1:1", "tab", "indent by spaces"});
}

TEST_F(BadRecipe, MissingFileAndFolderAreNamed) {
  expect_refusal(work_.kumiko({"train", "nothere.yaml"}), 2, {"nothere.yaml", "No such file"});
  expect_refusal(work_.kumiko({"train", "corpus"}), 2, {"corpus", "found a folder", "needed a YAML file"});
}

TEST_F(BadRecipe, OverrideWithoutKeyOrValueIsRefused) {
  expect_override_refused({"train.steps"}, {"override 'train.steps'", "needed key=value", "such as"});
  expect_override_refused({"=4"}, {"override '=4'", "such as method.rank"});
  expect_override_refused({"train.steps=4", "train=[1"}, {"override 'train=[1'", "never closed"});
  expect_override_refused({"train.steps=&a 4"}, {"override 'train.steps=&a 4'", "anchor"});
}

TEST_F(BadRecipe, UnknownMethodOptimizerPresetAndCodecListTheKnownOnes) {
  expect_override_refused({"method.name=loqtt"}, {"method.name", "unknown method 'loqtt'", "did you mean 'loqt'", "loqt_nq", "full"});
  expect_override_refused({"optimizer.name=adamv"}, {"optimizer.name", "unknown optimizer 'adamv'", "did you mean 'adamw'"});
  expect_override_refused({"model.preset=llama-61m"}, {"model.preset", "'llama-61m'", "llama-60m"});
  expect_override_refused({"method.quantization.weights=nf5"}, {"method.quantization.weights", "'nf5'", "nf4"});
  expect_override_refused({"lr_schedule.kind=cosinus"}, {"lr_schedule.kind", "'cosinus'", "cosine"});
}

TEST_F(BadRecipe, RankLargerThanALayerNamesTheLayerAndTheLimit) {
  expect_override_refused({"method.rank=65"}, {"method.rank 65", "q_proj", "[64, 64]", "at most 64"});
}

TEST_F(BadRecipe, ValuesThatContradictEachOtherAreRefused) {
  expect_override_refused({"data.sequence_length=129"}, {"data.sequence_length", "129", "above model.max_sequence_length 128"});
  expect_override_refused({"lr_schedule.warmup_steps=60"}, {"lr_schedule.warmup_steps", "found 60", "fewer than the run's 60 steps"});
  expect_override_refused({"train.steps=5"}, {"recipe.yaml:9:", "lr_schedule.warmup_steps", "found 5", "5 steps"});
  expect_override_refused({"train.micro_batch_size=5"}, {"train.micro_batch_size", "5 does not divide the 16"});
  expect_override_refused({"model.n_heads=3", "model.n_kv_heads=3"}, {"model.n_heads"});
}

TEST_F(BadRecipe, VocabularySmallerThanTheTokenizersIsRefused) {
  expect_override_refused({"model.vocab_size=300"}, {"model.vocab_size", "300 is below the 384 ids", "leave it out"});
  ASSERT_EQ(work_.kumiko({"train", "recipe.yaml", "train.steps=6", "output_dir=first"}).exit_code, 0);   // its shards exist now
  expect_refusal(work_.kumiko({"train", "recipe.yaml", "model.vocab_size=383"}), 2, {"model.vocab_size", "383 is below the 384 ids", "leave it out"});
}

class BadCommand : public ::testing::Test {
 protected:
  void expect_refused(const std::vector<std::string>& command, int exit_code, const std::vector<std::string>& words) {
    SCOPED_TRACE(::testing::PrintToString(command));
    expect_refusal(work_.kumiko(command), exit_code, words);
  }
  Workspace work_;
};

TEST_F(BadCommand, MissingOrUnknownCommandListsTheCommands) {
  expect_refused({}, 2, {"needed a command", "train", "doctor", "kumiko --help"});
  expect_refused({"trian"}, 2, {"unknown command 'trian'", "did you mean 'train'", "kumiko --help"});
  expect_refused({"--bogus"}, 2, {"unknown command '--bogus'", "known: train"});
  expect_refused({"tokenizer"}, 2, {"needed a command", "export", "kumiko tokenizer --help"});
  expect_refused({"tokenizer", "trian"}, 2, {"unknown command 'trian'", "kumiko tokenizer --help"});
}

TEST_F(BadCommand, WrongFlagNamesTheFlagAndTheHelp) {
  expect_refused({"train"}, 2, {"recipe is required", "kumiko train --help"});
  expect_refused({"train", "recipe.yaml", "--dri-run"}, 2, {"--dri-run", "kumiko train --help"});
  expect_refused({"train", "recipe.yaml", "--allow-changes"}, 2, {"--allow-changes"});
  expect_refused({"eval", "run", "--tokens=-5"}, 2, {"--tokens", "-5", "not in range"});
  expect_refused({"generate", "run", "--temperature", "nan"}, 2, {"--temperature", "found 'nan'", "from 0 to 100"});
  expect_refused({"generate", "run", "--top-p", "1.5"}, 2, {"--top-p", "found '1.5'", "from 0 to 1"});
  expect_refused({"generate", "run", "--seed", "-1"}, 2, {"--seed", "-1"});
  expect_refused({"generate", "run", "--max-tokens", "5x"}, 2, {"--max-tokens", "5x"});
  expect_refused({"prepare", "corpus", "-o", "x"}, 2, {"--tokenizer is required", "kumiko prepare --help"});
  expect_refused({"prepare", "corpus", "--tokenizer", "t", "-o", "x", "--document", "word"}, 2, {"--document", "word", "blank-line"});
  expect_refused({"prepare", "corpus", "--tokenizer", "t", "-o", "x", "--max-bytes", "3qq"}, 2, {"--max-bytes", "'3qq'", "such as 24GiB"});
  expect_refused({"tokenizer", "train", "corpus", "-o", "x", "--sample", "lots"}, 2, {"--sample", "'lots'", "such as"});
  expect_refused({"doctor", "extra"}, 2, {"extra", "kumiko doctor --help"});
}

TEST_F(BadCommand, PathWithoutARunIsNamed) {
  std::filesystem::create_directories(work_ / "empty/checkpoints");
  for (const std::string command : {"eval", "generate", "inspect"}) {
    expect_refused({command, "empty"}, 4, {"empty holds no checkpoint", "kumiko train"});
    expect_refused({command, "corpus"}, 4, {"corpus holds no checkpoint"});
  }
  for (const std::string command : {"eval", "generate"}) {
    expect_refused({command, "missing"}, 4, {"missing does not exist", "name a run folder"});
    expect_refused({command, "recipe.yaml"}, 4, {"recipe.yaml is no folder", "name a run folder"});
  }
  expect_refused({"inspect", "missing"}, 2, {"missing", "no such file or folder", "name a run folder"});
  expect_refused({"inspect", "recipe.yaml"}, 3, {"'recipe.yaml' is not a Kumiko shard", "kumiko prepare"});
}

TEST_F(BadCommand, HelpOfEveryCommandShowsItsDefaults) {
  const std::vector<std::pair<std::vector<std::string>, std::vector<std::string>>> helps = {
      {{}, {"train", "prepare", "tokenizer", "eval", "generate", "inspect", "doctor"}},
      {{"train"}, {"recipe", "--dry-run", "--allow-changes"}},
      {{"prepare"}, {"--validation FLOAT=0.01", "--field TEXT=text", "--shard-tokens INT=64000000", "--max-document TEXT=64MiB"}},
      {{"tokenizer"}, {"train", "export"}},
      {{"tokenizer", "train"}, {"--vocab-size INT=4096", "--sample TEXT=10MB", "--model TEXT:{bpe,unigram}=bpe"}},
      {{"tokenizer", "export"}, {"--output"}},
      {{"eval"}, {"--tokens", "=0"}},
      {{"generate"}, {"--max-tokens", "default 128", "=0.8", "=50", "=42"}},
      {{"inspect"}, {"--digest", "--tensors"}},
      {{"doctor"}, {"--folder TEXT=."}}};
  for (auto [command, words] : helps) {
    command.emplace_back("--help");
    SCOPED_TRACE(::testing::PrintToString(command));
    const Finished help = work_.kumiko(command);
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_EQ(help.output.find("error"), std::string::npos) << help.output;
    for (const auto& word : words) EXPECT_THAT(help.output, ::testing::HasSubstr(word));
  }
}

}  // namespace
}  // namespace kumiko::test
