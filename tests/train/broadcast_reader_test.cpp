// SPDX-License-Identifier: Apache-2.0
#include "framework/train/broadcast_reader.hpp"

#include <mutex>

#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/support/temp_folder.hpp"
#include "tests/train/sample_state.hpp"

namespace kumiko {
namespace {

using test::TempFolder;

TEST(BroadcastReader, GivesEveryRankTheCheckpointOfRankZero) {
  TempFolder run;
  CheckpointStore store(run.path(), {.file_bytes = 4096});
  ASSERT_TRUE(test::save_sample(store, 20).saved);
  std::mutex mutex;
  std::vector<std::string> differences;

  dist::run_thread_group(3, [&](dist::Communicator& comm) {
    std::unique_ptr<CheckpointReader> source;
    if (comm.rank() == 0) source = newest_checkpoint(run.path(), {});
    const BroadcastReader reader(source.get(), comm);
    std::string difference = test::differs_from_sample(reader, 20);
    if (!reader.has("model/view") || reader.has("model/none")) difference += " has";
    const std::lock_guard lock(mutex);
    differences.push_back(difference);
  });

  EXPECT_EQ(differences, std::vector<std::string>(3));
}

TEST(BroadcastReader, ThrowsOnEveryRankWhatRankZeroFound) {
  TempFolder run;
  CheckpointStore store(run.path(), {});
  ASSERT_TRUE(test::save_sample(store, 20).saved);
  std::mutex mutex;
  std::vector<std::string> messages;

  dist::run_thread_group(2, [&](dist::Communicator& comm) {
    std::unique_ptr<CheckpointReader> source;
    if (comm.rank() == 0) source = newest_checkpoint(run.path(), {});
    const BroadcastReader reader(source.get(), comm);
    for (const char* name : {"model/lost", "trainer/step"}) {
      try {
        reader.tensor(name);
      } catch (const CheckpointError& error) {
        const std::lock_guard lock(mutex);
        messages.push_back(error.what());
      }
    }
    EXPECT_EQ(reader.integer("trainer/step"), 20);
  });

  ASSERT_EQ(messages.size(), 4u);
  std::sort(messages.begin(), messages.end());
  EXPECT_EQ(messages[0], messages[1]);
  EXPECT_EQ(messages[2], messages[3]);
  EXPECT_NE(messages[0], messages[2]);
}

TEST(BroadcastText, GivesEveryRankTheTextOfRankZero) {
  for (const std::string& text : {std::string(), std::string("a\0b", 3), std::string(100000, 'x')}) {
    dist::run_thread_group(4, [&](dist::Communicator& comm) {
      EXPECT_EQ(broadcast_text(comm.rank() == 0 ? text : "other", comm), text);
    });
  }
}

}  // namespace
}  // namespace kumiko
