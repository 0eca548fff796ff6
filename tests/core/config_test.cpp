// SPDX-License-Identifier: Apache-2.0
#include "framework/core/config.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <fstream>

#include "framework/core/config_tree.hpp"
#include "framework/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace kumiko {
namespace {

template <class Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

ConfigNode parse(std::string_view text, const std::vector<std::string>& overrides = {}) {
  return ConfigNode::parse_text(text, "r.yaml", overrides);
}

std::string parse_error(std::string_view text, const std::vector<std::string>& overrides = {}) {
  return error_of([&] { parse(text, overrides); });
}

std::string override_error(const std::string& override_text,
                           std::string_view text = "method: {rank: 8}\nsteps: 10\n") {
  return parse_error(text, {override_text});
}

constexpr std::string_view kRecipe =
    "model: {preset: llama-60m, vocab_size: 32000}\n"
    "method:\n"
    "  name: loqt\n"
    "  rank: 1_28\n"
    "  scale: .5\n"
    "  targets: [attention, mlp]\n"
    "  moments: rotate\n"
    "optimizer: {lr: 1e-2, betas: [0.9, 0.999]}\n"
    "train:\n"
    "  deterministic: true\n"
    "  micro_batch_size: auto\n"
    "output_dir: \"runs/a b\"\n";

enum class Moments { keep, reset, rotate };
constexpr std::array<std::pair<std::string_view, Moments>, 3> kMoments = {
    {{"keep", Moments::keep}, {"reset", Moments::reset}, {"rotate", Moments::rotate}}};

void read_recipe(const ConfigNode& root) {
  const ConfigNode model = root.child("model");
  model.text("preset");
  model.integer("vocab_size", 32000, {.min = 1});
  model.boolean("tie_embeddings", false);
  const ConfigNode method = root.child("method");
  method.text("name");
  method.integer("rank", {.min = 1});
  method.real("scale", 1.0, {.min = 0.0});
  method.texts("targets", {"attention"});
  method.choice<Moments>("moments", Moments::keep, kMoments);
  method.child("schedule").integers("steps", {0, 100});
  const ConfigNode optimizer = root.child("optimizer");
  optimizer.real("lr", {.min = 0.0});
  optimizer.reals("betas", {0.9, 0.95}, {.min = 0.0, .max = 1.0});
  optimizer.real("eps", 1e-6, {});
  const ConfigNode train = root.child("train");
  train.boolean("deterministic", false);
  train.integer_or_auto("micro_batch_size", {.min = 1});
  train.child("unused");
  root.text("output_dir", "runs/x");
}

TEST(Config, ReadsEachKindOfValue) {
  const ConfigNode root = parse(kRecipe);
  const ConfigNode method = root.child("method");

  EXPECT_EQ(root.child("model").text("preset"), "llama-60m");
  EXPECT_EQ(root.child("model").text("vocab_size"), "32000");
  EXPECT_EQ(method.integer("rank"), 128);
  EXPECT_EQ(method.real("scale"), 0.5);
  EXPECT_EQ(method.texts("targets", {}), (std::vector<std::string>{"attention", "mlp"}));
  EXPECT_EQ(method.texts("name", {}), std::vector<std::string>{"loqt"});
  EXPECT_EQ(method.choice<Moments>("moments", Moments::keep, kMoments), Moments::rotate);
  EXPECT_EQ(root.child("optimizer").real("lr"), 0.01);
  EXPECT_EQ(root.child("optimizer").reals("betas", {}), (std::vector<double>{0.9, 0.999}));
  EXPECT_TRUE(root.child("train").boolean("deterministic", false));
  EXPECT_EQ(root.child("train").integer_or_auto("micro_batch_size"), std::nullopt);
  EXPECT_EQ(root.text("output_dir"), "runs/a b");
  EXPECT_EQ(method.path(), "method");
  EXPECT_EQ(root.path(), "");
  EXPECT_EQ(method.child("schedule").path(), "method.schedule");
}

TEST(Config, UsesFallbacksForAbsentAndNullKeys) {
  const ConfigNode root = parse("a: null\nb: ~\nc:\nd: {}\n");

  EXPECT_EQ(root.integer("a", 7, {}), 7);
  EXPECT_EQ(root.real("b", 0.25, {}), 0.25);
  EXPECT_EQ(root.text("e", "x"), "x");
  EXPECT_FALSE(root.has("a"));
  EXPECT_FALSE(root.has("e"));
  EXPECT_TRUE(root.has("d"));
  EXPECT_EQ(root.child("c").integer("deep", 3, {}), 3);
  root.child("d");
  EXPECT_NO_THROW(root.finish());
}

TEST(Config, AcceptsOurNumberGrammarOnly) {
  const auto integer = [](const std::string& text) {
    return parse("n: " + text).integer("n", {.min = INT64_MIN});
  };
  const auto real = [](const std::string& text) { return parse("n: " + text).real("n"); };

  EXPECT_EQ(integer("1_000_000"), 1000000);
  EXPECT_EQ(integer("-12"), -12);
  EXPECT_EQ(integer("+12"), 12);
  EXPECT_EQ(integer("0"), 0);
  EXPECT_EQ(integer("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(real("1e-3"), 1e-3);
  EXPECT_EQ(real("5E8"), 5e8);
  EXPECT_EQ(real("-.5"), -0.5);
  EXPECT_EQ(real("1_000"), 1000.0);
  EXPECT_EQ(real("3."), 3.0);
  for (const std::string bad : {"010", "0x10", "0o17", "0b1", "1__0", "_1", "1_", "1,000", "12abc",
                                "9223372036854775808", "--1", "1 2"}) {
    EXPECT_THROW(integer(bad), UsageError) << bad;
  }
  for (const std::string bad : {"010", "01.5", "0x1p3", ".", "e3", "1e", "1e999", "1e-999", "nan", ".nan",
                                "NaN", "inf", "-.inf", "1.5f", "1:30"}) {
    EXPECT_THROW(real(bad), UsageError) << bad;
  }
}

TEST(Config, SaysWhatAnIntegerShouldBe) {
  const auto message = [](const std::string& value, IntRange range = {}) {
    return error_of([&] { parse("method:\n  rank: " + value).child("method").integer("rank", range); });
  };

  EXPECT_EQ(message("many", {.min = 1}), "r.yaml:2:9: method.rank: found 'many', needed an integer >= 1");
  EXPECT_EQ(message("0", {.min = 1, .max = 8}),
            "r.yaml:2:9: method.rank: found '0', needed an integer from 1 to 8");
  EXPECT_EQ(message("9", {.min = INT64_MIN, .max = 8}),
            "r.yaml:2:9: method.rank: found '9', needed an integer <= 8");
  EXPECT_EQ(message("x", {.min = INT64_MIN}), "r.yaml:2:9: method.rank: found 'x', needed an integer");
  EXPECT_EQ(message("1e4"),
            "r.yaml:2:9: method.rank: found '1e4', needed an integer >= 0; write it as 10000");
  EXPECT_EQ(message("1.5"), "r.yaml:2:9: method.rank: found '1.5', needed an integer >= 0");
  EXPECT_EQ(message("010"),
            "r.yaml:2:9: method.rank: found '010', needed an integer >= 0; write it without leading zeros");
  EXPECT_EQ(
      message("\"12\""),
      "r.yaml:2:9: method.rank: found the text \"12\", needed an integer >= 0; write it without quotes");
  EXPECT_EQ(message("[1]"), "r.yaml:2:9: method.rank: found a sequence, needed an integer >= 0");
  EXPECT_EQ(message("{a: 1}"), "r.yaml:2:9: method.rank: found a mapping, needed an integer >= 0");
}

TEST(Config, SaysWhatARealShouldBe) {
  const auto message = [](const std::string& value, RealRange range = {}) {
    return error_of([&] { parse("lr: " + value).real("lr", 0.1, range); });
  };

  EXPECT_EQ(message("fast"), "r.yaml:1:5: lr: found 'fast', needed a number");
  EXPECT_EQ(message(".nan", {.min = 0.0}), "r.yaml:1:5: lr: found '.nan', needed a number >= 0.0");
  EXPECT_EQ(message(".inf"), "r.yaml:1:5: lr: found '.inf', needed a number");
  EXPECT_EQ(message("1.5", {.min = 0.0, .max = 1.0}),
            "r.yaml:1:5: lr: found '1.5', needed a number from 0.0 to 1.0");
  EXPECT_EQ(message("1.5", {.max = 1.0}), "r.yaml:1:5: lr: found '1.5', needed a number <= 1.0");
  EXPECT_EQ(message("'0.1'"),
            "r.yaml:1:5: lr: found the text \"0.1\", needed a number; write it without quotes");
}

TEST(Config, SaysWhatOtherValuesShouldBe) {
  EXPECT_EQ(error_of([] { parse("on: yes").boolean("on", false); }),
            "r.yaml:1:5: on: found 'yes', needed true or false");
  EXPECT_EQ(error_of([] { parse("on: \"true\"").boolean("on", false); }),
            "r.yaml:1:5: on: found the text \"true\", needed true or false");
  EXPECT_EQ(error_of([] { parse("t: [a]").text("t"); }), "r.yaml:1:4: t: found a sequence, needed a text");
  EXPECT_EQ(error_of([] { parse("t: [a, {b: c}]").texts("t", {}); }),
            "r.yaml:1:8: t[1]: found a mapping, needed a text");
  EXPECT_EQ(error_of([] { parse("t: {b: c}").texts("t", {}); }),
            "r.yaml:1:4: t: found a mapping, needed a text or a sequence of such");
  EXPECT_EQ(error_of([] {
              parse("o: {betas: [0.9, 1.5]}").child("o").reals("betas", {}, {.min = 0.0, .max = 1.0});
            }),
            "r.yaml:1:18: o.betas[1]: found '1.5', needed a number from 0.0 to 1.0");
  EXPECT_EQ(error_of([] { parse("t: [1, null]").integers("t", {}); }),
            "r.yaml:1:8: t[1]: found null, needed an integer >= 0");
  EXPECT_EQ(error_of([] { parse("m: big").integer_or_auto("m", {.min = 1}); }),
            "r.yaml:1:4: m: found 'big', needed auto or an integer >= 1");
  EXPECT_EQ(error_of([] { parse("m: 0").integer_or_auto("m", {.min = 1}); }),
            "r.yaml:1:4: m: found '0', needed an integer >= 1");
  EXPECT_EQ(error_of([] { parse("method: loqt").child("method"); }),
            "r.yaml:1:9: method: found 'loqt', needed a mapping");
}

TEST(Config, OffersTheNearestWordOfAChoice) {
  const auto message = [](const std::string& value) {
    return error_of([&] { parse("moments: " + value).choice<Moments>("moments", Moments::keep, kMoments); });
  };

  EXPECT_EQ(message("kepe"),
            "r.yaml:1:10: moments: found 'kepe', needed one of keep, reset, rotate; did you mean 'keep'?");
  EXPECT_EQ(message("forget"), "r.yaml:1:10: moments: found 'forget', needed one of keep, reset, rotate");
  EXPECT_EQ(message("[keep]"), "r.yaml:1:10: moments: found a sequence, needed one of keep, reset, rotate");
}

TEST(Config, NamesMissingKeys) {
  EXPECT_EQ(error_of([] { parse("a: 1").text("output_dir"); }), "r.yaml: output_dir: missing, needed a text");
  EXPECT_EQ(error_of([] { parse("a: 1\nmethod:\n  x: 1\n").child("method").integer("rank", {.min = 1}); }),
            "r.yaml:2:1: method.rank: missing, needed an integer >= 1");
  EXPECT_EQ(error_of([] { parse("method:\n  rnak: 1\n").child("method").integer("rank", {.min = 1}); }),
            "r.yaml:1:1: method.rank: missing, needed an integer >= 1; is 'rnak' (r.yaml:2:3) meant?");
  EXPECT_EQ(error_of([] { parse("lr: null").real("lr"); }), "r.yaml: lr: missing, needed a number");
}

TEST(Config, RefusesTheFirstUnknownKeyInFileOrder) {
  const auto message = [](const std::string& text) {
    return error_of([&] {
      const ConfigNode root = parse(text);
      root.child("method").integer("rank", 8, {});
      root.child("method").integer("interval", 8, {});
      root.integer("steps", 1, {});
      root.finish();
    });
  };

  EXPECT_EQ(message("steps: 2\nmethod:\n  rnak: 4\n"),
            "r.yaml:3:3: method.rnak: unknown key; did you mean 'rank'?");
  EXPECT_EQ(message("zzz: 2\nmethod:\n  rnak: 4\n"),
            "r.yaml:1:1: zzz: unknown key; known here: method, steps");
  EXPECT_EQ(message("method: {colour: 4}\n"),
            "r.yaml:1:10: method.colour: unknown key; known here: rank, interval");
  EXPECT_EQ(message("method: {steps: 4}\n"), "r.yaml:1:10: method.steps: unknown key; did you mean 'steps'?");
  EXPECT_EQ(message("interval: 4\n"), "r.yaml:1:1: interval: unknown key; did you mean 'method.interval'?");
  EXPECT_EQ(message("metod: {rank: 4}\n"), "r.yaml:1:1: metod: unknown key; did you mean 'method'?");
  EXPECT_EQ(message("method: {rank: 4}\n"), "no error");
  EXPECT_EQ(error_of([] {
              const ConfigNode root = parse("a: {b: 1}");
              root.child("a");
              root.finish();
            }),
            "r.yaml:1:5: a.b: unknown key; no key is known here");
}

TEST(Config, FinishesOneBlockAlone) {
  const ConfigNode root = parse("a: {x: 1}\nb: {y: 2}\n");
  const ConfigNode a = root.child("a");

  EXPECT_EQ(a.integer("x"), 1);

  EXPECT_NO_THROW(a.finish());
  EXPECT_EQ(error_of([&] { root.finish(); }), "r.yaml:2:1: b: unknown key; known here: a");
}

TEST(Config, FailsAtThePlaceOfAKey) {
  const ConfigNode root = parse("a: 1\nmethod:\n  rank: 600\n");
  const ConfigNode method = root.child("method");

  EXPECT_EQ(error_of([&] { method.fail("rank", "larger than 512"); }),
            "r.yaml:3:9: method.rank: larger than 512");
  EXPECT_EQ(error_of([&] { method.fail("scale", "is wrong"); }), "r.yaml:2:1: method.scale: is wrong");
  EXPECT_EQ(error_of([&] { method.fail("", "is wrong"); }), "r.yaml:2:1: method: is wrong");
  EXPECT_EQ(error_of([&] { root.fail("b", "is wrong"); }), "r.yaml: b: is wrong");
  EXPECT_EQ(error_of([&] { parse("a: 1", {"c.d=2"}).child("c").fail("d", "is odd"); }),
            "override 'c.d=2': c.d: is odd");
}

TEST(ConfigText, RefusesDuplicateKeys) {
  EXPECT_EQ(parse_error("a: 1\nb:\n  c: 1\n  c: 2\n"),
            "r.yaml:4:3: the key 'c' is here twice; first at r.yaml:3:3");
  EXPECT_EQ(parse_error("{a: 1, 'a': 2}"), "r.yaml:1:8: the key 'a' is here twice; first at r.yaml:1:2");
  EXPECT_EQ(parse_error("a: 1\nb: {a: 1}\n"), "no error");
}

TEST(ConfigText, RefusesAliasBombsCyclesTagsAndMergeKeys) {
  std::string bomb = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 40; ++i) bomb += concat("a", i, ": &a", i, " [*a", i - 1, ", *a", i - 1, "]\n");

  EXPECT_EQ(parse_error(bomb),
            "r.yaml:1:5: found the anchor '&a0'; anchors and aliases are not allowed, write the value out");
  EXPECT_EQ(parse_error("a: &x [*x]"),
            "r.yaml:1:4: found the anchor '&x'; anchors and aliases are not allowed, write the value out");
  EXPECT_EQ(parse_error("a: *x"),
            "r.yaml:1:4: found an alias; anchors and aliases are not allowed, write the value out");
  EXPECT_EQ(parse_error("<<: {a: 1}"),
            "r.yaml:1:1: found the merge key '<<'; merging is not allowed, write the keys out");
  EXPECT_EQ(parse_error("a: !!int 3"), "r.yaml:1:4: found a tag ('!...'); tags are not allowed");
  EXPECT_EQ(parse_error("a: ! 3"), "r.yaml:1:4: found a tag ('!...'); tags are not allowed");
  EXPECT_EQ(parse_error("a: !x [3]"), "r.yaml:1:4: found a tag ('!...'); tags are not allowed");
  EXPECT_EQ(parse_error("!!map {a: 3}"), "r.yaml:1:1: found a tag ('!...'); tags are not allowed");
}

TEST(ConfigText, RefusesDeepNestingInBoundedTime) {
  std::string block;
  for (int i = 0; i < 40; ++i) block += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  block += std::string(40, ' ') + "a: 1\n";
  std::string allowed = "1";
  for (int i = 0; i < 32; ++i) allowed = "{a: " + allowed + "}";

  EXPECT_EQ(parse_error(block), "r.yaml:33:33: nested more than 32 deep");
  EXPECT_EQ(parse_error(allowed), "no error");
  EXPECT_EQ(parse_error("a: " + allowed), "r.yaml:1:128: nested more than 32 deep");
  EXPECT_EQ(parse_error("a: " + std::string(1 << 19, '[')),
            "r.yaml:1:5: found a key that is no word, or a bracket that is never closed");
  EXPECT_EQ(parse_error("a: " + std::string(1 << 19, '{')),
            "r.yaml:1:5: found a key that is no word, or a bracket that is never closed");
}

TEST(ConfigText, RefusesLargeFilesUnread) {
  const std::string large = "a: " + std::string(2 << 20, 'x');

  EXPECT_EQ(parse_error(large), "r.yaml: larger than 1 MiB; a recipe has at most a few hundred lines");
}

TEST(ConfigText, ReadsAMebibyteOfKeysInBoundedTime) {
  std::string text;
  for (int i = 0; text.size() < (1 << 20) - 32; ++i) text += concat("k", i, ": ", i, "\n");

  EXPECT_EQ(error_of([&] { parse(text).finish(); }), "r.yaml:1:1: k0: unknown key; no key is known here");
}

TEST(ConfigText, RefusesBytesThatAreNoText) {
  using std::string_literals::operator""s;
  EXPECT_EQ(parse_error("a: 1\nb: \0x"s), "r.yaml:2:4: found a NUL character");
  EXPECT_EQ(parse_error("a: \x04"), "r.yaml:1:4: found a control character");
  EXPECT_EQ(parse_error("a: \"x\\0y\""), "r.yaml:1:4: found a NUL character in a text");
  for (const std::string bad :
       {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80", "\xf8\x88\x80\x80\x80"}) {
    EXPECT_EQ(parse_error("a: 1\nb: " + bad), "r.yaml:2:4: the text is not UTF-8");
  }
  EXPECT_EQ(parse("\xef\xbb\xbf"
                  "a: \xe2\x82\xac\r\nb: 2\r\n")
                .text("a"),
            "\xe2\x82\xac");
}

TEST(ConfigText, RefusesEmptyFilesOtherRootsAndSecondDocuments) {
  EXPECT_EQ(parse_error(""), "r.yaml: empty; needed a mapping of keys to values");
  EXPECT_EQ(parse_error("# nothing\n"), "r.yaml: empty; needed a mapping of keys to values");
  EXPECT_EQ(parse_error("---\n"), "r.yaml: empty; needed a mapping of keys to values");
  EXPECT_EQ(parse_error("- a\n- b\n"), "r.yaml:1:1: found a sequence, needed a mapping of keys to values");
  EXPECT_EQ(parse_error("hello"), "r.yaml:1:1: found 'hello', needed a mapping of keys to values");
  EXPECT_EQ(parse_error("a: 1\n---\nb: 2\n"), "r.yaml:2:1: a second document begins; needed one document");
  EXPECT_EQ(parse_error("a: 1\n...\n---\n"), "r.yaml:3:1: a second document begins; needed one document");
  EXPECT_EQ(parse_error("---\na: 1\n...\n"), "no error");
}

TEST(ConfigText, PassesOnWhereTheSyntaxBreaks) {
  EXPECT_EQ(parse_error("a:\n\tb: 1\n"),
            "r.yaml:2:1: not valid YAML: found a tab in the indentation; indent by spaces");
  EXPECT_EQ(parse_error("a: [1, 2\n"), "r.yaml:1:4: not valid YAML: this bracket is never closed");
  EXPECT_EQ(parse_error("a: 1\n  b: 2\n"), "r.yaml:2:4: not valid YAML: illegal map value");
  EXPECT_EQ(parse_error("a: \"x\n"), "r.yaml:1:4: the quote that begins here is never closed");
  EXPECT_EQ(parse_error("a: 'it''s\n"), "r.yaml:1:4: the quote that begins here is never closed");
  EXPECT_EQ(parse("a: 'it''s'").text("a"), "it's");
  EXPECT_EQ(parse("a: \"\\\"\"").text("a"), "\"");
  EXPECT_EQ(parse_error("a: [1"), "r.yaml:1:4: not valid YAML: this bracket is never closed");
}

TEST(ConfigText, RefusesKeysThatAreNoWords) {
  EXPECT_EQ(parse_error("? [a]\n: 1\n"),
            "r.yaml:1:3: found a key that is no word, or a bracket that is never closed");
  EXPECT_EQ(parse_error("~: 1\n"), "r.yaml:1:1: found a key that is empty or null; a key is a word");
  EXPECT_EQ(parse_error("\"\": 1\n"), "r.yaml:1:1: found a key that is empty or null; a key is a word");
}

TEST(ConfigText, NeverCrashesOnDamagedRecipes) {
  std::uint64_t state = 1;
  const auto next = [&](std::uint64_t below) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state >> 33) % below;
  };
  constexpr std::string_view kPieces = ":{}[],&*!|>'\"%@`#-?\n\t ~<=x1";
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text(kRecipe);
    for (std::uint64_t edits = 1 + next(4); edits > 0; --edits)
      text[next(text.size())] = kPieces[next(kPieces.size())];
    const std::string message = parse_error(text);
    if (message == "no error") continue;
    ++refused;
    EXPECT_TRUE(message.starts_with("r.yaml:")) << message;
  }
  EXPECT_GT(refused, 300);
  EXPECT_LT(refused, 3000);
}

TEST(ConfigOverride, ReplacesAddsAndRemoves) {
  const ConfigNode root = parse(kRecipe, {"method.rank=64", "method.schedule.kind=static",
                                          "optimizer.betas=[0.8, 0.9]", "eval={every: 5}", "output_dir=null",
                                          "model.vocab_size=100", "model.vocab_size=200", "train.note=a=b"});

  EXPECT_EQ(root.child("method").integer("rank"), 64);
  EXPECT_EQ(root.child("method").child("schedule").text("kind"), "static");
  EXPECT_EQ(root.child("optimizer").reals("betas", {}), (std::vector<double>{0.8, 0.9}));
  EXPECT_EQ(root.child("eval").integer("every"), 5);
  EXPECT_FALSE(root.has("output_dir"));
  EXPECT_EQ(root.child("model").integer("vocab_size"), 200);
  EXPECT_EQ(root.child("train").text("note"), "a=b");
}

TEST(ConfigOverride, IsReadByTheRulesOfTheFile) {
  EXPECT_EQ(override_error("method.rank"),
            "override 'method.rank': needed key=value, such as method.rank=64");
  EXPECT_EQ(override_error("method.rank="),
            "override 'method.rank=': no value after '='; write null to remove the key");
  EXPECT_EQ(override_error("=3"),
            "override '=3': the key before '=' is not words joined by points, such as method.rank");
  EXPECT_EQ(override_error("a..b=3"),
            "override 'a..b=3': the key before '=' is not words joined by points, such as method.rank");
  EXPECT_EQ(override_error("steps.x=3"), "override 'steps.x=3': steps is '10', not a mapping");
  EXPECT_EQ(
      override_error("a=&x 1"),
      "override 'a=&x 1': found the anchor '&x'; anchors and aliases are not allowed, write the value out");
  EXPECT_EQ(override_error("a=*x"),
            "override 'a=*x': found an alias; anchors and aliases are not allowed, write the value out");
  EXPECT_EQ(override_error("a={b: 1, b: 2}"),
            "override 'a={b: 1, b: 2}': the key 'b' is here twice; first at override 'a={b: 1, b: 2}'");
  EXPECT_EQ(override_error("a=[1"),
            "override 'a=[1': found a key that is no word, or a bracket that is never closed");
  EXPECT_EQ(override_error("a=b: c"),
            "override 'a=b: c': found a block of YAML; needed one value, [a, b] or {a: 1, b: 2}");
  EXPECT_EQ(override_error("a=\xff"), "override 'a=\xff': the text is not UTF-8");
  EXPECT_EQ(error_of([] { parse("a: 1", {"method.rank=many"}).child("method").integer("rank"); }),
            "override 'method.rank=many': method.rank: found 'many', needed an integer >= 0");
}

TEST(ConfigOverride, OfAnUnknownKeyIsRefused) {
  const auto message = [](const std::string& override_text) {
    return error_of([&] {
      const ConfigNode root = parse("method: {rank: 8}", {override_text});
      root.child("method").integer("rank", 4, {});
      root.finish();
    });
  };

  EXPECT_EQ(message("method.rnak=3"),
            "override 'method.rnak=3': method.rnak: unknown key; did you mean 'rank'?");
  EXPECT_EQ(message("metod.rank=3"), "override 'metod.rank=3': metod: unknown key; did you mean 'method'?");
  EXPECT_EQ(message("method.rnak=null"),
            "override 'method.rnak=null': method.rnak: unknown key; did you mean 'rank'?");
  EXPECT_EQ(message("method.rank=null"), "no error");
}

TEST(ConfigYaml, PrintsWhatWasReadInThatOrder) {
  const ConfigNode root = parse(kRecipe);

  read_recipe(root);

  EXPECT_EQ(root.to_yaml(),
            "model:\n"
            "  preset: llama-60m\n"
            "  vocab_size: 32000\n"
            "  tie_embeddings: false\n"
            "method:\n"
            "  name: loqt\n"
            "  rank: 128\n"
            "  scale: 0.5\n"
            "  targets: [attention, mlp]\n"
            "  moments: rotate\n"
            "  schedule:\n"
            "    steps: [0, 100]\n"
            "optimizer:\n"
            "  lr: 0.01\n"
            "  betas: [0.9, 0.999]\n"
            "  eps: 1.0e-06\n"
            "train:\n"
            "  deterministic: true\n"
            "  micro_batch_size: auto\n"
            "  unused: {}\n"
            "output_dir: \"runs/a b\"\n");
  EXPECT_EQ(root.child("optimizer").to_yaml(), "lr: 0.01\nbetas: [0.9, 0.999]\neps: 1.0e-06\n");
  EXPECT_EQ(parse("a: 1").to_yaml(), "{}\n");
}

TEST(ConfigYaml, ReadsBackToTheSameText) {
  const ConfigNode root = parse(kRecipe);
  read_recipe(root);

  const ConfigNode again = parse(root.to_yaml());
  read_recipe(again);
  again.finish();

  EXPECT_EQ(again.to_yaml(), root.to_yaml());
}

TEST(ConfigYaml, QuotesTextsThatWouldReadAsSomethingElse) {
  const std::vector<std::string> texts = {
      "",    "null", "~",        "true",  "No",         "12",    "1e3",     "0x1f",        "a: b",
      "#x",  "a #b", "- a",      "[a",    "it's",       "\"q\"", "back\\s", "tab\there",   "\x1b",
      "...", "---",  "\xc3\xa9", "*x",    "a,b",        " a",    "a ",      "line\nbreak", "%x",
      "@x",  "<<",   "=",        "12:30", "plain-text", ".nan"};
  const ConfigNode root = parse("a: 1");
  root.texts("t", texts);
  for (std::size_t i = 0; i < texts.size(); ++i) root.text(concat("k", i), texts[i]);

  const ConfigNode again = parse(root.to_yaml());

  EXPECT_EQ(again.texts("t", {}), texts);
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(again.text(concat("k", i)), texts[i]);
  EXPECT_EQ(again.to_yaml(), root.to_yaml());
}

TEST(ConfigYaml, PrintsNumbersThatReadBackExactly) {
  const std::vector<double> values = {0.1,  1.0 / 3.0,   1e-300, 5e-324, 1.7976931348623157e308,
                                      -0.0, 123456789.0, 1e22,   2.5e-7};
  const ConfigNode root = parse("a: 1");
  root.reals("v", values);

  const std::vector<double> again = parse(root.to_yaml()).reals("v", {});

  ASSERT_EQ(again.size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(std::memcmp(&again[i], &values[i], sizeof(double)), 0) << values[i];
}

TEST(ConfigYaml, KeepsReplacedValues) {
  const ConfigNode root = parse("m: auto\nname: x");
  root.integer_or_auto("m");
  root.resolve("m", "8");
  root.resolve("name", "a b");

  EXPECT_EQ(root.integer_or_auto("m"), std::nullopt);

  EXPECT_EQ(root.to_yaml(), "m: 8\nname: \"a b\"\n");
  EXPECT_EQ(parse(root.to_yaml()).integer_or_auto("m"), 8);
}

TEST(ConfigFile, IsReadWithOverrides) {
  const test::TempFolder folder;
  const auto file = folder / "recipe.yaml";
  std::ofstream(file) << "a: 1\nb: 2\n";

  const ConfigNode root = ConfigNode::parse_file(file, std::vector<std::string>{"b=3"});

  EXPECT_EQ(root.integer("a"), 1);
  EXPECT_EQ(root.integer("b"), 3);
}

TEST(ConfigFile, SaysWhyItCannotBeRead) {
  const test::TempFolder folder;
  const auto missing = folder / "none.yaml";

  EXPECT_EQ(error_of([&] { ConfigNode::parse_file(missing); }),
            missing.string() + ": cannot be opened: No such file or directory");
  EXPECT_EQ(error_of([&] { ConfigNode::parse_file(folder.path()); }),
            folder.path().string() + ": found a folder, needed a YAML file");
  EXPECT_EQ(error_of([&] { ConfigNode::parse_file("/dev/zero"); }),
            "/dev/zero: larger than 1 MiB; a recipe has at most a few hundred lines");
}

TEST(ConfigFile, OfAGigabyteIsRefusedUnread) {
  const test::TempFolder folder;
  const auto file = folder / "huge.yaml";
  std::ofstream(file) << "a: 1\n";
  std::filesystem::resize_file(file, std::uintmax_t{1} << 30);

  EXPECT_EQ(error_of([&] { ConfigNode::parse_file(file); }),
            file.string() + ": larger than 1 MiB; a recipe has at most a few hundred lines");
}

TEST(ConfigBytes, ReadsSizesAndNamesTheKeyOfABadOne) {
  const ConfigNode node = ConfigNode::parse_text("{a: 64MiB, b: many}", "r.yaml");
  EXPECT_EQ(node.bytes("a", "0"), 64 << 20);
  EXPECT_EQ(node.bytes("absent", "1KiB"), 1024);
  EXPECT_EQ(error_of([&] { node.bytes("b", "0"); }).find("r.yaml:1:15: b: "), 0u);
}

TEST(ConfigTrees, ComeAsOneLineThatReadsTheSame) {
  const std::string text = "a: {b: [1, \"2\", true, \"true\", x-y, \"a: b\", \"\"], c: 1.0e-3}\nd: null\n";
  const std::string line = to_flow_yaml(parse_config_tree(text, "r.yaml"));
  EXPECT_EQ(line, "{a: {b: [1, \"2\", true, \"true\", x-y, \"a: b\", \"\"], c: 1.0e-3}, d: null}");
  EXPECT_EQ(to_flow_yaml(parse_config_tree(line, "again")), line);
}

TEST(ConfigTrees, PutTogetherFromFilesNameTheFileOfEachValue) {
  ConfigTree tree = parse_config_tree("a: 1\n", "first.yaml");
  tree.members.push_back(parse_config_tree("\nb: two\n", "second.yaml").members.front());
  const ConfigNode node = ConfigNode::from_tree(std::move(tree), "both");
  EXPECT_EQ(node.integer("a"), 1);
  EXPECT_EQ(error_of([&] { node.integer("b"); }).find("second.yaml:2:4: b: found 'two'"), 0u);
}

TEST(ConfigTrees, AreHandedOutWholeAndCountAsRead) {
  const ConfigNode node = ConfigNode::parse_text("a: {x: 1, z: [2]}\n", "r.yaml");
  ASSERT_NE(node.tree("a"), nullptr);
  EXPECT_EQ(to_flow_yaml(*node.tree("a")), "{x: 1, z: [2]}");
  EXPECT_EQ(node.tree("b"), nullptr);
  EXPECT_NO_THROW(node.finish());
  EXPECT_EQ(node.to_yaml(), "a: {x: 1, z: [2]}\nb: null\n");
}

}  // namespace
}  // namespace kumiko
