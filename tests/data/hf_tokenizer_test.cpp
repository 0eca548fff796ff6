// SPDX-License-Identifier: Apache-2.0
#include "data/hf_tokenizer.hpp"

#include <algorithm>
#include <fstream>
#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/corpus.hpp"

namespace kumiko::data {
namespace {

using test::TempFolder;
using Json = nlohmann::json;

Json read_json(const std::filesystem::path& path) { return Json::parse(test::read_text(path)); }

// Byte-pair encoding as the format of tokenizer.json defines it: added tokens first, then characters, of
// which those without a piece become bytes, then the pair of the lowest rank, leftmost first, until none is
// left.
class PlainBpe {
 public:
  explicit PlainBpe(const Json& json) {
    for (const auto& [piece, id] : json["model"]["vocab"].items()) vocab_[piece] = id;
    for (const auto& token : json["added_tokens"]) {
      if (!token["special"]) added_.push_back(token["content"]);
    }
    std::sort(added_.begin(), added_.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
    for (const auto& merge : json["model"]["merges"])
      ranks_.emplace(std::pair(merge[0], merge[1]), ranks_.size());
  }

  std::vector<std::int32_t> encode(std::string_view text) const {
    std::vector<std::int32_t> ids;
    std::vector<std::string> parts;
    const auto flush = [&] {
      merge(parts);
      for (const std::string& part : parts) ids.push_back(vocab_.at(part));
      parts.clear();
    };
    while (!text.empty()) {
      const auto token =
          std::find_if(added_.begin(), added_.end(), [&](const auto& t) { return text.starts_with(t); });
      if (token != added_.end()) {
        flush();
        ids.push_back(vocab_.at(*token));
        text.remove_prefix(token->size());
        continue;
      }
      std::size_t length = 1;
      while (length < text.size() && (static_cast<unsigned char>(text[length]) & 0xC0) == 0x80) ++length;
      const std::string character(text.substr(0, length));
      const std::string piece = character == " " ? "\xE2\x96\x81" : character;
      if (vocab_.contains(piece)) {
        parts.push_back(piece);
      } else {
        for (const char c : character) parts.push_back(byte_piece(c));
      }
      text.remove_prefix(length);
    }
    flush();
    return ids;
  }

 private:
  static std::string byte_piece(char c) {
    char piece[8];
    std::snprintf(piece, sizeof(piece), "<0x%02X>", static_cast<unsigned char>(c));
    return piece;
  }

  void merge(std::vector<std::string>& parts) const {
    for (;;) {
      std::size_t best = ranks_.size();
      std::size_t at = 0;
      for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = ranks_.find({parts[i], parts[i + 1]});
        if (found != ranks_.end() && found->second < best) {
          best = found->second;
          at = i;
        }
      }
      if (best == ranks_.size()) return;
      parts[at] += parts[at + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
  }

  std::map<std::string, std::int32_t> vocab_;
  std::vector<std::string> added_;
  std::map<std::pair<std::string, std::string>, std::size_t> ranks_;
};

TEST(HfTokenizer, GivesTheSameIdsByItsRanks) {
  const TempFolder folder;
  export_hf_tokenizer(test::small_tokenizer(), folder / "hf");
  const PlainBpe theirs(read_json(folder / "hf/tokenizer.json"));

  std::vector<std::string> texts{"", " ", "\t\t\t\t\t\t", "a\r\nb", "日本語 🙂 é", "<0x0A>"};
  for (std::uint64_t i = 500; i < 520; ++i) texts.push_back("  " + test::made_up_code(i, 12) + " end ");
  for (std::size_t run = 1; run < 40; ++run) {
    texts.push_back("x" + std::string(run, ' ') + "y" + std::string(run, '\n') + std::string(run, '='));
  }
  for (const std::string& text : texts) {
    EXPECT_EQ(theirs.encode(text), test::small_tokenizer().encode(text)) << text.substr(0, 40);
  }
}

TEST(HfTokenizer, NamesItsSpecialTokens) {
  const TempFolder folder;
  export_hf_tokenizer(test::small_tokenizer(), folder.path());
  const Json main = read_json(folder / "tokenizer.json");
  EXPECT_EQ(main["model"]["vocab"].size(), 360U);
  EXPECT_EQ(main["model"]["vocab"]["<unk>"], 0);
  EXPECT_EQ(main["model"]["vocab"]["<s>"], 1);
  EXPECT_EQ(main["model"]["vocab"]["</s>"], 2);
  EXPECT_EQ(main["model"]["byte_fallback"], true);
  const Json config = read_json(folder / "tokenizer_config.json");
  EXPECT_EQ(config["eos_token"], "</s>");
  EXPECT_EQ(config["bos_token"], "<s>");
  EXPECT_EQ(config["add_bos_token"], false);
  EXPECT_EQ(read_json(folder / "special_tokens_map.json")["unk_token"], "<unk>");
}

TEST(HfTokenizer, WritesUnigramScores) {
  const TempFolder folder;
  const auto tokenizer =
      Tokenizer::from_bytes(test::train_small_model(340, TokenizerKind::unigram), "unigram");
  export_hf_tokenizer(tokenizer, folder.path());
  const Json main = read_json(folder / "tokenizer.json");
  ASSERT_EQ(main["model"]["type"], "Unigram");
  ASSERT_EQ(main["model"]["vocab"].size(), 340U);
  EXPECT_EQ(main["model"]["unk_id"], 0);
  EXPECT_LT(main["model"]["vocab"][300][1].get<double>(), 0.0);
}

}  // namespace
}  // namespace kumiko::data
