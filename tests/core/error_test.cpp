// SPDX-License-Identifier: Apache-2.0
#include "framework/core/error.hpp"

#include <gtest/gtest.h>

namespace kumiko {
namespace {

template <class Type>
int exit_code() {
  try {
    throw Type("text");
  } catch (const Error& error) {
    return static_cast<int>(error.code());
  }
}

TEST(Error, TypesMapToTheDocumentedExitCodes) {
  EXPECT_EQ(exit_code<UsageError>(), 2);
  EXPECT_EQ(exit_code<NotBuiltError>(), 2);
  EXPECT_EQ(exit_code<DataError>(), 3);
  EXPECT_EQ(exit_code<CheckpointError>(), 4);
  EXPECT_EQ(exit_code<OutOfMemoryError>(), 5);
  EXPECT_EQ(exit_code<PeerError>(), 6);
  EXPECT_EQ(exit_code<DivergedError>(), 7);
  EXPECT_EQ(exit_code<ShapeError>(), 1);
}

TEST(Expects, ThrowsTheJoinedMessageOnlyWhenTheConditionFails) {
  const auto check = [](int rank) {
    KUMIKO_EXPECTS(rank <= 512, UsageError, "rank ", rank, " is above ", 512);
  };

  EXPECT_NO_THROW(check(512));
  try {
    check(513);
    FAIL() << "nothing was thrown";
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(), "rank 513 is above 512");
  }
}

TEST(Expects, LeavesItsMessageAloneWhenTheConditionHolds) {
  int evaluated = 0;

  KUMIKO_EXPECTS(true, UsageError, ++evaluated);

  EXPECT_EQ(evaluated, 0);
}

}  // namespace
}  // namespace kumiko
