// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include "data/tokenizer_model.hpp"
#include "data/tokenizer_trainer.hpp"
#include "data/utf8.hpp"
#include "framework/core/error.hpp"
#include "framework/core/sha256.hpp"
#include "tests/support/corpus.hpp"

namespace kumiko::data {
namespace {

using test::message_of;
using ::testing::HasSubstr;

std::string from_code_point(std::uint32_t c) {
  std::string text;
  if (c < 0x80) {
    text = {static_cast<char>(c)};
  } else if (c < 0x800) {
    text = {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 63))};
  } else if (c < 0x10000) {
    text = {static_cast<char>(0xE0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
            static_cast<char>(0x80 | (c & 63))};
  } else {
    text = {static_cast<char>(0xF0 | (c >> 18)), static_cast<char>(0x80 | ((c >> 12) & 63)),
            static_cast<char>(0x80 | ((c >> 6) & 63)), static_cast<char>(0x80 | (c & 63))};
  }
  return text;
}

class EveryKind : public ::testing::TestWithParam<TokenizerKind> {
 protected:
  static const Tokenizer& tokenizer() {
    static const Tokenizer bpe =
        Tokenizer::from_bytes(test::train_small_model(360, TokenizerKind::bpe), "bpe");
    static const Tokenizer unigram =
        Tokenizer::from_bytes(test::train_small_model(360, TokenizerKind::unigram), "unigram");
    return GetParam() == TokenizerKind::bpe ? bpe : unigram;
  }
};
INSTANTIATE_TEST_SUITE_P(Tokenizer, EveryKind, ::testing::Values(TokenizerKind::bpe, TokenizerKind::unigram),
                         [](const auto& info) {
                           return info.param == TokenizerKind::bpe ? "Bpe" : "Unigram";
                         });

TEST_P(EveryKind, GivesBackTextsThatOthersChange) {
  const std::vector<std::string> texts{"",
                                       " ",
                                       "  ",
                                       "\n",
                                       "\r\n",
                                       "\t",
                                       "\t\t\t\t\t\t\t x",
                                       " leading",
                                       "trailing ",
                                       "a  b   c    d",
                                       "\n\n\n  \n",
                                       "def f(x):\n    return x  # ok\r\n",
                                       "\u2581",
                                       "a\u2581b \u2581\u2581 c",
                                       "<0x0A>",
                                       "<s></s><unk>",
                                       "\u2585",
                                       "\u2585 a",
                                       "e\u0301 \u00e9 \uFB01 \uFF21",
                                       "\uFEFFbom",
                                       "\u3000wide\u00a0space\u200b",
                                       "日本語 текст עברית 🙂👩‍👩‍👧",
                                       "\x01\x7f\x1b[0m",
                                       std::string(5000, ' ') + "x",
                                       std::string(5000, '\n'),
                                       std::string(3000, 'z')};
  for (const std::string& text : texts) {
    EXPECT_EQ(tokenizer().decode(tokenizer().encode(text)), text) << text.substr(0, 40);
  }
}

TEST_P(EveryKind, GivesBackRandomUnicode) {
  std::uint64_t state = 7;
  const auto pick = [&state](std::uint64_t count) {
    return (state = mix64(state + 0x9e3779b97f4a7c15ULL)) % count;
  };
  const std::vector<std::string> likely{" ",   "  ",     "\n",    "\t",   "\r", "\u2581", "\u2585",
                                        "<s>", "<0x20>", "alpha", "    ", "(",  "1"};
  for (int round = 0; round < 400; ++round) {
    std::string text;
    for (std::uint64_t i = pick(60); i > 0; --i) {
      std::uint64_t c = 1 + pick(pick(2) == 0 ? 0x2FF : 0x10FFFF);
      if (c >= 0xD800 && c < 0xE000) c = 0x2581;
      text += pick(2) == 0 ? likely[pick(likely.size())] : from_code_point(static_cast<std::uint32_t>(c));
    }
    ASSERT_EQ(tokenizer().decode(tokenizer().encode(text)), text) << "round " << round;
  }
}

TEST_P(EveryKind, EncodesWordByWordAsWellAsTheWhole) {
  sentencepiece::SentencePieceProcessor whole;
  ASSERT_TRUE(whole.LoadFromSerializedProto(tokenizer().model_bytes()).ok());
  Encoder encoder(tokenizer());
  for (std::uint64_t i = 100; i < 130; ++i) {
    const std::string text = "  " + test::made_up_code(i) + " \n  end ";
    std::vector<std::int32_t> ids;
    encoder.append(text, ids);
    const std::vector<int> expected = whole.EncodeAsIds(text);
    if (GetParam() == TokenizerKind::bpe) {
      EXPECT_EQ(ids, expected) << i;
      continue;
    }
    // Over a long text SentencePiece's float sums round, so pieces of equal score may differ, their sum
    // hardly.
    const auto score = [&whole](const auto& pieces) {
      double sum = 0;
      for (const int id : pieces) sum += whole.GetScore(id);
      return sum;
    };
    EXPECT_NEAR(score(ids), score(expected), 1e-3 * static_cast<double>(ids.size())) << i;
  }
}

TEST_P(EveryKind, NeverYieldsControlTokens) {
  for (const std::string text : {"<s>", "</s>", "<unk>", "a</s>b"}) {
    const std::vector<std::int32_t> ids = tokenizer().encode(text);
    EXPECT_THAT(ids, ::testing::Each(::testing::Gt(2))) << text;
  }
}

TEST(Tokenizer, HasTheSpecialIdsOfLlama) {
  const Tokenizer& tokenizer = test::small_tokenizer();
  EXPECT_EQ(tokenizer.unk_id(), 0);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.vocab_size(), 360);
  EXPECT_EQ(tokenizer.digest(), Sha256().update(tokenizer.model_bytes()).hex());
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{1, 2}), "");
}

TEST(Tokenizer, LearnsRunsOfSpacesAndLineEnds) {
  const Tokenizer& tokenizer = test::small_tokenizer();
  EXPECT_EQ(tokenizer.encode("    ").size(), 1U);
  EXPECT_EQ(tokenizer.encode("\t").size(), 1U);
  std::int64_t with_line_end = 0;
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.model().pieces[static_cast<std::size_t>(id)].kind == PieceKind::normal &&
        tokenizer.bytes_of(id).find('\n') != std::string_view::npos) {
      ++with_line_end;
    }
  }
  EXPECT_GE(with_line_end, 2);
}

TEST(Tokenizer, IsTrainedDeterministicallyAndFromABoundedSample) {
  const test::TempFolder folder;
  for (std::uint64_t i = 0; i < 60; ++i)
    test::write_text(folder.path() / (std::to_string(i) + ".txt"), test::made_up_code(i));
  const auto train = [&folder](std::int64_t sample) {
    DocumentStream documents({.inputs = {folder.path()}});
    return train_tokenizer({.vocab_size = 340, .sample_bytes = sample}, documents);
  };
  EXPECT_EQ(train(20'000), train(20'000));
  EXPECT_NE(train(20'000), train(1'000'000));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const std::string message = message_of<DataError>([] { test::small_tokenizer().encode("abc\xFFz"); });
  EXPECT_THAT(message, HasSubstr("offset 3"));
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabulary) {
  EXPECT_THAT(message_of<DataError>([] { test::small_tokenizer().decode(std::vector<std::int32_t>{360}); }),
              HasSubstr("token id 360 is outside the vocabulary of 360"));
  EXPECT_THROW(test::small_tokenizer().decode(std::vector<std::int32_t>{-1}), DataError);
}

TEST(Tokenizer, RefusesFilesThatAreNone) {
  const test::TempFolder folder;
  test::write_text(folder.path() / "a.model", "this is some text, not a model");
  test::write_text(folder.path() / "empty.model", "");
  test::write_text(folder.path() / "cut.model", test::small_tokenizer().model_bytes().substr(0, 1000));
  EXPECT_THAT(message_of<DataError>([&] { Tokenizer::load(folder.path() / "a.model"); }),
              HasSubstr("no SentencePiece model"));
  EXPECT_THAT(message_of<DataError>([&] { Tokenizer::load(folder.path() / "empty.model"); }),
              HasSubstr("no SentencePiece model"));
  EXPECT_THROW(Tokenizer::load(folder.path() / "cut.model"), DataError);
  EXPECT_THAT(message_of<DataError>([&] { Tokenizer::load(folder.path() / "none.model"); }),
              HasSubstr("kumiko tokenizer train"));
}

TEST(Tokenizer, RefusesAModelThatWouldChangeText) {
  // Field 3 of the model is the normaliser; its field 3 is the dummy prefix.
  const std::string model = test::small_tokenizer().model_bytes() + std::string("\x1a\x02\x18\x01", 4);
  EXPECT_THAT(message_of<DataError>([&] { Tokenizer::from_bytes(model, "prefixed"); }),
              HasSubstr("changes text"));
}

TEST(Tokenizer, SaysWhenTheTextIsTooLittleForTheVocabulary) {
  const test::TempFolder folder;
  test::write_text(folder.path() / "a.txt", "too little text");
  DocumentStream documents({.inputs = {folder.path()}});
  const std::string message =
      message_of<DataError>([&] { train_tokenizer({.vocab_size = 4096}, documents); });
  EXPECT_THAT(message, HasSubstr("4096 were asked for"));
}

TEST(Tokenizer, SaysWhenThereIsNoTextAtAll) {
  const test::TempFolder folder;
  test::write_text(folder.path() / "a.txt", "");
  DocumentStream documents({.inputs = {folder.path()}});
  EXPECT_THAT(message_of<DataError>([&] { train_tokenizer({}, documents); }), HasSubstr("no text to train"));
}

TEST(Utf8, FindsTheFirstBadByte) {
  EXPECT_EQ(find_invalid_utf8("plain ASCII of some length, é, 日本, 🙂"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("\xC0\xAF"), 0U);                     // overlong
  EXPECT_EQ(find_invalid_utf8("ab\xE0\x80\x80"), 2U);               // overlong
  EXPECT_EQ(find_invalid_utf8("ab\xED\xA0\x80"), 2U);               // surrogate
  EXPECT_EQ(find_invalid_utf8("0123456789\xF4\x90\x80\x80"), 10U);  // above U+10FFFF
  EXPECT_EQ(find_invalid_utf8("0123456789abcde\xE2\x82"), 15U);     // cut
  EXPECT_EQ(find_invalid_utf8("\x80"), 0U);
  for (std::uint32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    ASSERT_EQ(find_invalid_utf8(from_code_point(c)), std::nullopt) << c;
  }
}

}  // namespace
}  // namespace kumiko::data
