// SPDX-License-Identifier: Apache-2.0
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/communicator.hpp"
#include "framework/core/config.hpp"
#include "framework/core/error.hpp"

namespace kumiko::dist {
namespace {

CommOptions parse(const std::string& text) {
  const ConfigNode root = ConfigNode::parse_text(text, "recipe.yaml");
  const CommOptions options = CommOptions::parse(root.child("comm"));
  root.finish();
  return options;
}

std::string error_of(const std::string& text) {
  try {
    parse(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

TEST(CommOptions, HasDefaults) {
  const CommOptions options = parse("{}");
  EXPECT_EQ(options.backend, Backend::automatic);
  EXPECT_EQ(options.wire, Wire::native);
  EXPECT_EQ(options.timeout_seconds, 600.0);
}

TEST(CommOptions, ReadsEveryKey) {
  const CommOptions options = parse("comm: {backend: mpi, wire: bf16, timeout_seconds: 2.5}");
  EXPECT_EQ(options.backend, Backend::mpi);
  EXPECT_EQ(options.wire, Wire::bf16);
  EXPECT_EQ(options.timeout_seconds, 2.5);
  EXPECT_EQ(parse("comm: {wire: fp32}").wire, Wire::fp32);
  EXPECT_EQ(parse("comm: {wire: auto, backend: auto}").wire, Wire::native);
}

TEST(CommOptions, WritesWhatItReadIntoTheResolvedRecipe) {
  const ConfigNode root = ConfigNode::parse_text("comm: {wire: bf16}", "recipe.yaml");
  CommOptions::parse(root.child("comm"));
  EXPECT_THAT(root.to_yaml(),
              testing::AllOf(testing::HasSubstr("backend: auto"), testing::HasSubstr("wire: bf16"),
                             testing::HasSubstr("timeout_seconds: 600")));
}

TEST(CommOptions, RefusesNcclThatIsNotBuilt) {
  EXPECT_THAT(error_of("comm:\n  backend: nccl\n"),
              testing::AllOf(testing::HasSubstr("recipe.yaml:2"), testing::HasSubstr("built without NCCL")));
}

TEST(CommOptions, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(error_of("comm: {wire: bf17}"), testing::HasSubstr("bf16"));
  EXPECT_THAT(error_of("comm: {timeout: 3}"), testing::HasSubstr("comm.timeout"));
  EXPECT_THAT(error_of("comm: {timeout_seconds: 0}"), testing::HasSubstr("comm.timeout_seconds"));
  EXPECT_THAT(error_of("comm: {backend: [mpi]}"), testing::HasSubstr("comm.backend"));
}

}  // namespace
}  // namespace kumiko::dist
