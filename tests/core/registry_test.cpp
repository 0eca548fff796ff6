// SPDX-License-Identifier: Apache-2.0
#include "framework/core/registry.hpp"

#include <gtest/gtest.h>

namespace kumiko {
namespace {

struct Shape {
  explicit Shape(int sides) : sides(sides) {}
  virtual ~Shape() = default;
  int sides;
};

Registry<Shape, int> shapes() {
  Registry<Shape, int> registry("shape");
  registry.add("square", [](int) { return std::make_unique<Shape>(4); });
  registry.add("polygon", [](int sides) { return std::make_unique<Shape>(sides); });
  return registry;
}

template <class Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Registry, MakesWhatTheNameStandsFor) {
  const auto registry = shapes();

  EXPECT_EQ(registry.make("polygon", 7)->sides, 7);
  EXPECT_EQ(registry.make("square", 7)->sides, 4);
  EXPECT_TRUE(registry.has("square"));
  EXPECT_FALSE(registry.has("circle"));
  EXPECT_EQ(registry.names(), (std::vector<std::string>{"polygon", "square"}));
}

TEST(Registry, ListsTheKnownNamesWhenOneIsUnknown) {
  EXPECT_EQ(error_of([] { shapes().make("circle", 1); }), "unknown shape 'circle'; known: polygon, square");
}

TEST(Registry, RefusesANameTwice) {
  auto registry = shapes();

  const std::string message =
      error_of([&] { registry.add("square", [](int) { return std::make_unique<Shape>(5); }); });

  EXPECT_EQ(message, "shape 'square' is registered twice");
  EXPECT_EQ(registry.make("square", 0)->sides, 4);
}

TEST(Registry, HandsOnReferences) {
  Registry<Shape, int&> registry("shape");
  registry.add("counted", [](int& made) { return std::make_unique<Shape>(++made); });
  int made = 0;

  registry.make("counted", made);

  EXPECT_EQ(made, 1);
}

}  // namespace
}  // namespace kumiko
