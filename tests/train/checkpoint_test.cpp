// SPDX-License-Identifier: Apache-2.0
#include "framework/train/checkpoint.hpp"

#include <bit>
#include <cstring>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/config.hpp"
#include "framework/core/sha256.hpp"
#include "framework/train/checkpoint_writer.hpp"
#include "tests/support/temp_folder.hpp"
#include "tests/train/sample_state.hpp"

namespace kumiko {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using test::TempFolder;

const CheckpointPolicy kSmallFiles{.keep = 2, .file_bytes = 4096};

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

// Saves steps 10 and 20 and hands out the folder of 20.
std::filesystem::path save_two(const TempFolder& run) {
  CheckpointStore store(run.path(), kSmallFiles);
  EXPECT_TRUE(test::save_sample(store, 10).saved);
  const SaveResult result = test::save_sample(store, 20);
  EXPECT_TRUE(result.saved) << result.problem;
  return result.folder;
}

// The run goes on from step 10 and says about step 20 what contains `reason`.
void expect_walks_back(const TempFolder& run, const std::string& reason) {
  std::string said;
  const auto reader = newest_checkpoint(run.path(), [&](const std::string& text) { said += text; });
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->manifest().step, 10);
  EXPECT_EQ(test::differs_from_sample(*reader, 10), "");
  EXPECT_THAT(said, HasSubstr("step 20"));
  EXPECT_THAT(said, HasSubstr(reason));
}

TEST(CheckpointStore, GivesBackAllStateBitForBit) {
  TempFolder run;
  const auto folder = save_two(run);
  std::size_t state_files = 0;
  for (const auto& name : test::names_in(folder)) state_files += name.starts_with("state-");
  EXPECT_GT(state_files, 2u);

  const auto reader = newest_checkpoint(run.path(), [](const std::string& text) { FAIL() << text; });

  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->manifest().step, 20);
  EXPECT_EQ(test::differs_from_sample(*reader, 20), "");
  EXPECT_EQ(reader->manifest().meta.recipe, test::kMeta.recipe);
  EXPECT_EQ(reader->manifest().meta.world_size, 2);
  EXPECT_EQ(reader->manifest().meta.code_version, "0.1.0 test");
}

TEST(CheckpointStore, HasNothingToResumeInANewRun) {
  TempFolder run;

  EXPECT_EQ(newest_checkpoint(run.path(), {}), nullptr);
  EXPECT_EQ(CheckpointStore(run.path(), {}).resume({}), nullptr);
  EXPECT_THAT(message_of([&] { open_checkpoint(run.path(), {}); }), HasSubstr("holds no checkpoint"));
  EXPECT_THAT(message_of([&] { CheckpointStore(run.path(), {.resume = Resume::required}).resume({}); }),
              HasSubstr("'required'"));
}

TEST(CheckpointStore, RefusesToBeginAnewWhereCheckpointsAre) {
  TempFolder run;
  save_two(run);

  EXPECT_THROW(CheckpointStore(run.path(), {.resume = Resume::never}).resume({}), UsageError);
}

TEST(CheckpointStore, KeepsTheNewest) {
  TempFolder run;
  CheckpointStore store(run.path(), kSmallFiles);

  for (const std::int64_t step : {10, 20, 30, 40}) ASSERT_TRUE(test::save_sample(store, step).saved);

  EXPECT_THAT(checkpoint_steps(run.path()), ElementsAre(40, 30));
  EXPECT_EQ(test::names_in(run.path() / "checkpoints").size(), 2u);
}

TEST(CheckpointStore, NeverCountsADamagedOneAsKept) {
  TempFolder run;
  std::filesystem::remove(save_two(run) / "state-0001.h5");
  CheckpointStore store(run.path(), kSmallFiles);
  ASSERT_EQ(store.resume({})->manifest().step, 10);

  ASSERT_TRUE(test::save_sample(store, 30).saved);

  EXPECT_THAT(checkpoint_steps(run.path()), ElementsAre(30, 10));
}

TEST(CheckpointStore, ReplacesADamagedOneOfTheSameStep) {
  TempFolder run;
  const auto folder = save_two(run);
  std::filesystem::resize_file(folder / "state-0000.h5", 100);
  CheckpointStore store(run.path(), kSmallFiles);
  ASSERT_EQ(store.resume({})->manifest().step, 10);

  ASSERT_TRUE(test::save_sample(store, 20).saved);

  EXPECT_EQ(test::differs_from_sample(CheckpointReader(folder), 20), "");
  EXPECT_EQ(test::names_in(run.path() / "checkpoints").size(), 2u);
}

TEST(CheckpointStore, RemovesWhatDeadRunsLeftUnfinished) {
  TempFolder run;
  const auto folder = save_two(run);
  const std::filesystem::path unfinished = run.path() / "checkpoints" / "step-00000030.tmp-4711";
  std::filesystem::copy(folder, unfinished);
  ASSERT_EQ(newest_checkpoint(run.path(), {})->manifest().step, 20);

  CheckpointStore store(run.path(), kSmallFiles);

  EXPECT_FALSE(std::filesystem::exists(unfinished));
}

TEST(CheckpointStore, LetsAMistakeOfTheCallerThroughAndLeavesNothing) {
  TempFolder run;
  CheckpointStore store(run.path(), kSmallFiles);
  const auto twice = [](StateWriter& out) {
    out.tensor("a", at::ones({3}));
    out.integer("a", 1);
  };

  EXPECT_THAT(message_of([&] { store.save(5, test::kMeta, twice); }), HasSubstr("'a' is saved twice"));
  EXPECT_THROW(store.save(5, test::kMeta, [](StateWriter& out) { out.integer("a:b", 1); }),
               CheckpointError);
  EXPECT_THROW(store.save(5, test::kMeta,
                          [](StateWriter& out) { out.tensor("a", at::ones({1}, at::kComplexFloat)); }),
               CheckpointError);

  EXPECT_TRUE(test::names_in(run.path() / "checkpoints").empty());
}

TEST(CheckpointStore, HoldsOneFilesWorthInEachFile) {
  TempFolder run;
  CheckpointStore store(run.path(), {.file_bytes = 10000});
  const auto write = [](StateWriter& out) {
    for (int i = 0; i < 9; ++i) out.tensor("small" + std::to_string(i), at::full({1000}, i, at::kFloat));
    out.tensor("large", at::ones({50000}));
    out.tensor("after", at::ones({10}));
  };

  const SaveResult result = store.save(1, test::kMeta, write);

  ASSERT_TRUE(result.saved) << result.problem;
  std::map<std::size_t, std::int64_t> bytes;
  std::map<std::size_t, int> tensors;
  const CheckpointReader reader(result.folder);
  for (const auto& [name, tensor] : reader.manifest().tensors) {
    bytes[tensor.file] += tensor.bytes;
    ++tensors[tensor.file];
  }
  EXPECT_EQ(bytes.size(), 7u);  // 2 + 2 + 2 + 2 + 1 small ones, the large one alone, the last
  for (const auto& [file, sum] : bytes) EXPECT_TRUE(sum <= 10000 || tensors[file] == 1) << file;
}

std::int64_t peak_resident_bytes() {
  std::istringstream status(test::read_text("/proc/self/status"));
  std::int64_t kib = 0;
  for (std::string word; status >> word;) {
    if (word == "VmHWM:") status >> kib;
  }
  return kib * 1024;
}

TEST(CheckpointStore, HoldsFewFilesInMemoryWhileItSavesAndReads) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer keeps freed memory";
#endif
  constexpr std::int64_t kTensorBytes = 40 << 20;  // beyond what malloc keeps after it was freed
  constexpr int kTensors = 7;
  TempFolder run;
  CheckpointStore store(run.path(), {.file_bytes = kTensorBytes});
  const auto write = [](StateWriter& out) {
    for (int i = 0; i < kTensors; ++i)
      out.tensor("t" + std::to_string(i), at::full({kTensorBytes}, i, at::kByte));
  };
  const std::int64_t before = peak_resident_bytes();

  const SaveResult result = store.save(1, test::kMeta, write);
  const auto reader = newest_checkpoint(run.path(), {});
  for (int i = 0; i < kTensors; ++i) EXPECT_EQ(reader->tensor("t" + std::to_string(i))[5].item<int>(), i);

  ASSERT_TRUE(result.saved) << result.problem;
  EXPECT_LT(static_cast<double>(peak_resident_bytes() - before) / kTensorBytes, 4.5);
}

TEST(CheckpointReader, NamesWhatIsMissingOrOfAnotherKind) {
  TempFolder run;
  save_two(run);
  const auto reader = newest_checkpoint(run.path(), {});

  EXPECT_TRUE(reader->has("data/order"));
  EXPECT_FALSE(reader->has("data/other"));
  EXPECT_THAT(message_of([&] { reader->tensor("model/lost"); }), HasSubstr("no tensor 'model/lost'"));
  EXPECT_THAT(message_of([&] { reader->integer("trainer/best"); }),
              HasSubstr("another kind of value than integer"));
}

TEST(CheckpointReader, DetectsEveryTruncation) {
  for (const std::string name : {"manifest.json", "state-0000.h5", "state-0001.h5", "state-0002.h5"}) {
    TempFolder run;
    const auto file = save_two(run) / name;
    const std::string whole = test::read_text(file);
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, whole.size() / 2, whole.size() - 1}) {
      test::write_text(file, whole.substr(0, size));
      expect_walks_back(run, name);
    }
    test::write_text(file, whole + "x");
    expect_walks_back(run, name);
    std::filesystem::remove(file);
    expect_walks_back(run, name);
  }
}

TEST(CheckpointReader, DetectsEveryFlippedBitOfTheManifest) {
  TempFolder run;
  const auto file = save_two(run) / "manifest.json";
  const std::string whole = test::read_text(file);
  for (std::size_t position = 0; position < whole.size(); ++position) {
    std::string flipped = whole;
    flipped[position] = static_cast<char>(flipped[position] ^ (1 << position % 8));
    EXPECT_THROW(decode_manifest(flipped, file), CheckpointError) << position;
  }
  EXPECT_EQ(decode_manifest(whole, file).step, 20);
}

TEST(CheckpointReader, DetectsFlippedBitsOfStateFiles) {
  TempFolder run;
  const auto folder = save_two(run);
  std::mt19937 random(7);
  for (const std::string name : {"state-0000.h5", "state-0001.h5"}) {
    const std::string whole = test::read_text(folder / name);
    for (int trial = 0; trial < 60; ++trial) {
      const std::size_t position = trial < 30 ? static_cast<std::size_t>(trial) * 3 : random() % whole.size();
      std::string flipped = whole;
      flipped[position] = static_cast<char>(flipped[position] ^ (1 << random() % 8));
      test::write_text(folder / name, flipped);
      expect_walks_back(run, name);
    }
    test::write_text(folder / name, whole);
  }
}

TEST(CheckpointReader, DetectsSwappedSurplusAndLinkedFiles) {
  TempFolder run;
  const auto folder = save_two(run);
  std::filesystem::rename(folder / "state-0000.h5", folder / "state-spare");
  expect_walks_back(run, "state-spare");
  std::filesystem::rename(folder / "state-0001.h5", folder / "state-0000.h5");
  std::filesystem::rename(folder / "state-spare", folder / "state-0001.h5");
  expect_walks_back(run, "state-0000.h5 is damaged");
  std::filesystem::rename(folder / "state-0001.h5", run / "elsewhere");
  std::filesystem::create_symlink(run / "elsewhere", folder / "state-0001.h5");
  std::filesystem::remove(folder / "state-0000.h5");
  std::filesystem::create_symlink(run / "elsewhere", folder / "state-0000.h5");
  expect_walks_back(run, "state-0000.h5 is missing");
}

TEST(CheckpointReader, DetectsAFolderUnderAnotherStepsName) {
  TempFolder run;
  save_two(run);
  std::filesystem::remove_all(checkpoint_folder(run.path(), 20));
  std::filesystem::copy(checkpoint_folder(run.path(), 10), checkpoint_folder(run.path(), 20));

  expect_walks_back(run, "holds step 10");
}

TEST(CheckpointStore, ListsAllWhenAllAreDamaged) {
  TempFolder run;
  save_two(run);
  for (const std::int64_t step : {10, 20})
    std::filesystem::remove(checkpoint_folder(run.path(), step) / "manifest.json");

  const std::string message = message_of([&] { newest_checkpoint(run.path(), {}); });

  EXPECT_THAT(message, HasSubstr("step-00000010"));
  EXPECT_THAT(message, HasSubstr("step-00000020"));
  EXPECT_THAT(message, HasSubstr("no checkpoint"));
}

// Changes the manifest's text and seals it again, as an attacker or a later version could.
void edit_manifest(const std::filesystem::path& file, const std::string& from, const std::string& to) {
  std::string text = test::read_text(file);
  const auto at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  const auto seal = text.rfind(",\n\"manifest_sha256\":\"");
  text.resize(seal);
  test::write_text(file, text + ",\n\"manifest_sha256\":\"" + Sha256().update(text).hex() + "\"}\n");
}

TEST(CheckpointReader, StopsAtANewerFormatInsteadOfGoingOnFromAnOlderCheckpoint) {
  TempFolder run;
  const auto folder = save_two(run);
  edit_manifest(folder / "manifest.json", "\"format_version\": 1", "\"format_version\": 2");

  const std::string message = message_of([&] { newest_checkpoint(run.path(), {}); });

  EXPECT_THAT(message, HasSubstr("newer kumiko"));
  EXPECT_THAT(message, HasSubstr("format 2"));
  EXPECT_THAT(message, HasSubstr(folder.string()));
}

TEST(CheckpointReader, RefusesCraftedManifests) {
  const std::vector<std::array<std::string, 3>> cases{
      {"\"name\": \"state-0001.h5\"", "\"name\": \"../../other\"", "no plain name"},
      {"\"name\": \"state-0001.h5\"", "\"name\": \"state-0000.h5\"", "there twice"},
      {"\"format_version\": 1", "\"format_version\": 0", "does not exist"},
      {"\"format\": \"kumiko checkpoint\"", "\"format\": \"other\"", "no manifest"},
      {"\"step\": 20", "\"step\": -20", "the step"},
      {"\"step\": 20", "\"step\": 20, \"step\": 21", "there twice"},
      {"\"step\": 20", "\"step\": [[[[[[[[20]]]]]]]]", "nested deeper"},
      {"\"optimizer/i64\": {", "\"optimizer:i64\": {", "cannot be a name"},
      {"\"world_size\": 2", "\"world_size\": \"2\"", "world size"},
      {"\"trainer/step\": 20", "\"trainer/step\": 21", "content digest"},
      {"\"trainer/step\": 20", "\"trainer/step\": 99999999999999999999", "no 64-bit integer"},
      {"\"dtype\": \"bf16\"", "\"dtype\": \"c64\"", "unknown dtype"},
      {"train:", "trail:", "the recipe does not match"},
      {"\"shape\": [\n    30,\n    20\n   ]", "\"shape\": [4611686018427387904, 8]", "larger than 2^63"},
      {"\"shape\": [\n    30,\n    20\n   ]", "\"shape\": [30, 2000000]", "larger than its file"},
      {"\"file\": 0", "\"file\": 99", "not listed"}};
  for (const auto& [from, to, reason] : cases) {
    TempFolder run;
    const auto folder = save_two(run);
    edit_manifest(folder / "manifest.json", from, to);
    expect_walks_back(run, reason);
  }
}

// ---- content digest

std::string digest_of(const std::function<void(StateWriter&)>& write, CheckpointPolicy policy = {},
                      std::int64_t step = 7, const CheckpointMeta& meta = test::kMeta) {
  TempFolder run;
  const SaveResult result = CheckpointStore(run.path(), policy).save(step, meta, write);
  EXPECT_TRUE(result.saved) << result.problem;
  return content_digest(run.path(), {});
}

TEST(ContentDigest, DoesNotDependOnLayoutOrderRecipeOrRanks) {
  const auto in_order = [](StateWriter& out) { test::write_sample(7, out); };
  const auto reversed = [](StateWriter& out) {
    const auto tensors = test::sample_tensors(7);
    out.text("data/bytes", std::string("\xff\x00\x80", 3));
    out.text("data/order", "epoch 1, \"quoted\"\n\xc3\xa9");
    out.real("trainer/nan", std::numeric_limits<double>::quiet_NaN());
    out.real("trainer/best", 0.1 * 7.0);
    out.integer("trainer/most_negative", std::numeric_limits<std::int64_t>::min());
    out.integer("trainer/step", 7);
    for (auto item = tensors.rbegin(); item != tensors.rend(); ++item) out.tensor(item->first, item->second);
  };
  const std::string expected = digest_of(in_order);

  EXPECT_EQ(expected.size(), 64u);
  EXPECT_EQ(digest_of(in_order, {.file_bytes = 1}), expected);
  EXPECT_EQ(digest_of(reversed, {.file_bytes = 5000}), expected);
  EXPECT_EQ(digest_of(in_order, {}, 7, {.world_size = 4, .recipe = "other: 1\n", .code_version = "2"}),
            expected);
  EXPECT_NE(digest_of(in_order, {}, 8), expected);
}

TEST(ContentDigest, ChangesWithEveryBitOfState) {
  const at::Tensor codes = at::arange(4, at::kByte);
  const at::Tensor reals = at::arange(2, at::kFloat);
  const auto write = [&](std::int64_t integer, std::uint64_t real_bits, const std::string& text) {
    return digest_of([&](StateWriter& out) {
      out.tensor("codes", codes);
      out.tensor("reals", reals);
      out.integer("integer", integer);
      out.real("real", std::bit_cast<double>(real_bits));
      out.text("text", text);
    });
  };
  std::set<std::string> seen{write(5, 9, "ab")};
  std::size_t states = 1;
  for (const at::Tensor& tensor : {codes, reals}) {
    auto* bytes = static_cast<unsigned char*>(tensor.mutable_data_ptr());
    for (std::size_t bit = 0; bit < 8 * tensor.nbytes(); ++bit, ++states) {
      bytes[bit / 8] ^= static_cast<unsigned char>(1 << bit % 8);
      seen.insert(write(5, 9, "ab"));
      bytes[bit / 8] ^= static_cast<unsigned char>(1 << bit % 8);
    }
  }
  for (int bit = 0; bit < 64; ++bit, states += 2) {
    seen.insert(write(static_cast<std::int64_t>(5 ^ (std::uint64_t{1} << bit)), 9, "ab"));
    seen.insert(write(5, 9 ^ (std::uint64_t{1} << bit), "ab"));
  }
  for (int bit = 0; bit < 16; ++bit, ++states) {
    std::string text = "ab";
    text[static_cast<std::size_t>(bit / 8)] =
        static_cast<char>(text[static_cast<std::size_t>(bit / 8)] ^ (1 << bit % 8));
    seen.insert(write(5, 9, text));
  }

  EXPECT_EQ(seen.size(), states);
}

TEST(ContentDigest, ChangesWithNameDtypeShapeAndKind) {
  const at::Tensor value = at::arange(6, at::kByte);
  const std::set<std::string> seen{
      digest_of([&](StateWriter& out) { out.tensor("a", value); }),
      digest_of([&](StateWriter& out) { out.tensor("b", value); }),
      digest_of([&](StateWriter& out) {
        out.tensor("a", value.view({2, 3}));
      }),
      digest_of([&](StateWriter& out) {
        out.tensor("a", value.view({3, 2}));
      }),
      digest_of([&](StateWriter& out) { out.tensor("a", value.view(at::kChar)); }),
      digest_of([&](StateWriter& out) { out.integer("a", 1); }),
      digest_of([&](StateWriter& out) { out.real("a", std::bit_cast<double>(std::int64_t{1})); }),
      digest_of([&](StateWriter& out) { out.text("a", std::string("\x01\0\0\0\0\0\0\0", 8)); })};

  EXPECT_EQ(seen.size(), 8u);
}

TEST(CheckpointPolicy, ReadsItsBlock) {
  const auto node = ConfigNode::parse_text("every: 50\nkeep: 3\nresume: required\n", "test.yaml");
  const auto policy = CheckpointPolicy::parse(node);
  node.finish();

  EXPECT_EQ(policy.every, 50);
  EXPECT_EQ(policy.keep, 3);
  EXPECT_EQ(policy.resume, Resume::required);
  EXPECT_THROW(CheckpointPolicy::parse(ConfigNode::parse_text("keep: 0\n", "test.yaml")), UsageError);
  EXPECT_THROW(CheckpointPolicy::parse(ConfigNode::parse_text("resume: yes\n", "test.yaml")), UsageError);
}

}  // namespace
}  // namespace kumiko
