// SPDX-License-Identifier: Apache-2.0
#include "data/hf_tokenizer.hpp"

#include <algorithm>
#include <tuple>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "data/tokenizer_model.hpp"
#include "framework/core/files.hpp"

namespace kumiko::data {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSpaceMark = "\xE2\x96\x81";

Json added_tokens(const TokenizerModel& model) {
  Json tokens = Json::array();
  for (std::size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    const bool special = piece.kind == PieceKind::control || piece.kind == PieceKind::unknown;
    if (!special && piece.kind != PieceKind::user_defined) continue;
    tokens.push_back({{"id", id},
                      {"content", piece.text},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", special}});
  }
  return tokens;
}

// Every way to put a piece together from two others, best piece first. SentencePiece merges the pair whose
// result has the highest score and, of equal ones, the leftmost; for runs of one character that is the pair
// with the longer left part.
Json merges(const TokenizerModel& model) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.pieces[id].kind == PieceKind::normal) ids.emplace(model.pieces[id].text, id);
  }
  struct Merge {
    float score;
    std::string_view left;
    std::string_view right;
  };
  std::vector<Merge> found;
  for (const auto& [text, id] : ids) {
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      const std::string_view left = text.substr(0, cut);
      const std::string_view right = text.substr(cut);
      if (ids.contains(left) && ids.contains(right)) found.push_back({model.pieces[id].score, left, right});
    }
  }
  std::sort(found.begin(), found.end(), [](const Merge& a, const Merge& b) {
    return std::make_tuple(-a.score, -static_cast<std::int64_t>(a.left.size()), a.left, a.right) <
           std::make_tuple(-b.score, -static_cast<std::int64_t>(b.left.size()), b.left, b.right);
  });
  Json list = Json::array();
  for (const Merge& merge : found) list.push_back({merge.left, merge.right});
  return list;
}

Json bpe_model(const TokenizerModel& model, std::int32_t unk) {
  Json vocab = Json::object();
  for (std::size_t id = 0; id < model.pieces.size(); ++id) vocab[model.pieces[id].text] = id;
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", model.pieces[static_cast<std::size_t>(unk)].text},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", true},
          {"byte_fallback", true},
          {"ignore_merges", false},
          {"vocab", vocab},
          {"merges", merges(model)}};
}

Json unigram_model(const TokenizerModel& model, std::int32_t unk) {
  Json vocab = Json::array();
  for (const Piece& piece : model.pieces) vocab.push_back({piece.text, piece.score});
  return {{"type", "Unigram"}, {"unk_id", unk}, {"vocab", vocab}, {"byte_fallback", true}};
}

Json replace(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

}  // namespace

void export_hf_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder) {
  constexpr std::int64_t kBpe = 2;
  const TokenizerModel& model = tokenizer.model();
  const Json main{
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(model)},
      {"normalizer", replace(" ", kSpaceMark)},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders", {replace(kSpaceMark, " "), Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}}}}},
      {"model", model.model_type == kBpe ? bpe_model(model, tokenizer.unk_id())
                                         : unigram_model(model, tokenizer.unk_id())}};

  Json special = Json::object();
  const auto name = [&](const char* key, std::int32_t id) {
    if (id >= 0) special[key] = model.pieces[static_cast<std::size_t>(id)].text;
  };
  name("bos_token", tokenizer.bos_id());
  name("eos_token", tokenizer.eos_id());
  name("unk_token", tokenizer.unk_id());
  Json config{{"tokenizer_class", "PreTrainedTokenizerFast"},
              {"add_bos_token", false},
              {"add_eos_token", false},
              {"clean_up_tokenization_spaces", false}};
  config.update(special);

  std::filesystem::create_directories(folder);
  write_file_durably(folder / "tokenizer.json", main.dump(1));
  write_file_durably(folder / "tokenizer_config.json", config.dump(1));
  write_file_durably(folder / "special_tokens_map.json", special.dump(1));
}

}  // namespace kumiko::data
