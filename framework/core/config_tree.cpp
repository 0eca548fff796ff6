// SPDX-License-Identifier: Apache-2.0
#include "framework/core/config_tree.hpp"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <istream>
#include <optional>
#include <set>
#include <streambuf>

#include "framework/core/error.hpp"
#include "framework/core/format.hpp"

namespace kumiko {
namespace {

using Kind = ConfigTree::Kind;

std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  std::string result;
  for (const char c : text.substr(0, kLongest))
    result += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return text.size() > kLongest ? result + "..." : result;
}

// A stream over text that is not copied.
class ViewBuffer final : public std::streambuf {
 public:
  explicit ViewBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());  // streambuf's get area is not const; nothing writes to it
    setg(begin, begin, begin + text.size());
  }
};

// Length of the well-formed UTF-8 sequence at `at` (RFC 3629: no overlong forms, no surrogates), or 0.
std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U;
  };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return continues(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const bool allowed = first == 0xe0 ? byte(1) >= 0xa0 : first == 0xed ? byte(1) <= 0x9f : true;
    return allowed && continues(1) && continues(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const bool allowed = first == 0xf0 ? byte(1) >= 0x90 : first == 0xf4 ? byte(1) <= 0x8f : true;
    return allowed && continues(1) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

// Whether the quote at `begin` has its end.
bool quote_is_closed(std::string_view text, std::size_t begin) {
  const char quote = text[begin];
  for (std::size_t i = begin + 1; i < text.size(); ++i) {
    if (quote == '"' && text[i] == '\\') {
      ++i;
    } else if (text[i] == quote) {
      if (quote == '"' || i + 1 == text.size() || text[i + 1] != quote) return true;
      ++i;
    }
  }
  return false;
}

// The events of yaml-cpp, refusing on the way what a recipe may not contain: the tree never grows beyond the
// text.
class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, std::shared_ptr<const std::string> origin, bool is_override)
      : text_(text), origin_(std::move(origin)), is_override_(is_override) {}

  bool has_document() const { return documents_ > 0; }
  ConfigTree take() { return std::move(root_); }

  ConfigPlace place(const YAML::Mark& mark) const {
    if (is_override_ || mark.is_null()) return {origin_, 0, 0};
    return {origin_, mark.line + 1, mark.column + 1};
  }

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& message) const {
    throw UsageError(place(mark).text() + ": " + message);
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) fail(mark, "a second document begins; needed one document");
  }
  void OnDocumentEnd() override {}

  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    fail(mark,
         "found the anchor '&" + shown(name) + "'; anchors and aliases are not allowed, write the value out");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_alias(mark); }
  // For an error whose own place is the end of the text.
  [[noreturn]] void fail_unclosed() const {
    throw UsageError(open_.back().node->place.text() + ": not valid YAML: this bracket is never closed");
  }
  bool has_open() const { return !open_.empty(); }

  [[noreturn]] void refuse_alias(const YAML::Mark& mark) const {
    fail(mark, "found an alias; anchors and aliases are not allowed, write the value out");
  }

  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    if (expects_key()) fail(mark, "found a key that is empty or null; a key is a word");
    add({.kind = Kind::null, .place = place(mark)});
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    check_tag(mark, tag);
    if (value.find('\0') != std::string::npos) fail(mark, "found a NUL character in a text");
    const bool quoted = tag == "!";
    if (const char first = at(mark);
        quoted && (first == '"' || first == '\'') && !quote_is_closed(text_, mark.pos)) {
      fail(mark, "the quote that begins here is never closed");
    }
    if (expects_key()) return begin_member(mark, value, quoted);
    add({.kind = Kind::scalar, .quoted = quoted, .place = place(mark), .scalar = value});
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value style) override {
    begin_collection(mark, tag, style, Kind::sequence);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value style) override {
    begin_collection(mark, tag, style, Kind::mapping);
  }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  // A collection being filled. The pointer is stable: a parent gets no further child while one of its
  // children is open.
  struct Open {
    ConfigTree* node;
    bool wants_value = false;
    std::set<std::string> keys;
  };

  bool expects_key() const {
    return !open_.empty() && open_.back().node->kind == Kind::mapping && !open_.back().wants_value;
  }

  char at(const YAML::Mark& mark) const {
    return mark.pos >= 0 && static_cast<std::size_t>(mark.pos) < text_.size() ? text_[mark.pos] : '\0';
  }

  void check_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (at(mark) == '!' || (tag != "?" && tag != "!" && !tag.empty()))
      fail(mark, "found a tag ('!...'); tags are not allowed");
  }

  void begin_member(const YAML::Mark& mark, const std::string& key, bool quoted) {
    if (key.empty()) fail(mark, "found a key that is empty or null; a key is a word");
    if (key == "<<" && !quoted)
      fail(mark, "found the merge key '<<'; merging is not allowed, write the keys out");
    if (!open_.back().keys.insert(key).second) {
      fail(mark, concat("the key '", shown(key), "' is here twice; first at ",
                        open_.back().node->find(key)->place.text()));
    }
    open_.back().node->members.push_back({key, place(mark), {}});
    open_.back().wants_value = true;
  }

  ConfigTree* add(ConfigTree node) {
    if (open_.empty()) return &(root_ = std::move(node));
    Open& parent = open_.back();
    if (parent.node->kind == Kind::sequence) return &parent.node->items.emplace_back(std::move(node));
    parent.wants_value = false;
    return &(parent.node->members.back().value = std::move(node));
  }

  void begin_collection(const YAML::Mark& mark, const std::string& tag, YAML::EmitterStyle::value style,
                        Kind kind) {
    check_tag(mark, tag);
    // yaml-cpp takes a bracket that is never closed for the beginning of a key.
    const bool bracket_as_key = style == YAML::EmitterStyle::Block && (at(mark) == '[' || at(mark) == '{');
    if (expects_key() || bracket_as_key)
      fail(mark, "found a key that is no word, or a bracket that is never closed");
    if (open_.size() >= kConfigMaxDepth) fail(mark, concat("nested more than ", kConfigMaxDepth, " deep"));
    if (is_override_ && style == YAML::EmitterStyle::Block) {
      fail(mark, "found a block of YAML; needed one value, [a, b] or {a: 1, b: 2}");
    }
    open_.push_back({add({.kind = kind, .place = place(mark)}), false, {}});
  }

  std::string_view text_;
  std::shared_ptr<const std::string> origin_;
  bool is_override_;
  int documents_ = 0;
  ConfigTree root_;
  std::vector<Open> open_;
};

void check_characters(std::string_view text, const std::string& origin, bool is_override) {
  ConfigPlace at{std::make_shared<const std::string>(origin), 1, 1};
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::size_t length = utf8_length(text, i);
    const bool control = (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7f;
    if (length == 0 || control) {
      if (is_override) at.line = 0;
      throw UsageError(at.text() + (length == 0 ? ": the text is not UTF-8"
                                    : byte == 0 ? ": found a NUL character"
                                                : ": found a control character"));
    }
    at.column = byte == '\n' ? 1 : at.column + static_cast<int>(length);
    at.line += byte == '\n' ? 1 : 0;
    i += length;
  }
}

// The column (from 0) of a tab before the first word of the line where parsing failed.
std::optional<int> tab_in_indentation(std::string_view text, const YAML::Mark& mark) {
  if (mark.pos < 0 || static_cast<std::size_t>(mark.pos) > text.size() || mark.column > mark.pos)
    return std::nullopt;
  const std::string_view line = text.substr(mark.pos - mark.column);
  const auto column = line.substr(0, line.find_first_not_of(" \t")).find('\t');
  return column == std::string_view::npos ? std::nullopt : std::optional(static_cast<int>(column));
}

// Whether the text has a document; it is then in `root`.
bool parse(std::string_view text, const std::string& origin, bool is_override, ConfigTree& root) {
  if (text.size() > kConfigMaxBytes)
    throw UsageError(origin + ": larger than 1 MiB; a recipe has at most a few hundred lines");
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  check_characters(text, origin, is_override);
  TreeBuilder builder(text, std::make_shared<const std::string>(origin), is_override);
  ViewBuffer buffer(text);
  std::istream stream(&buffer);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    if (const auto column = tab_in_indentation(text, error.mark)) {
      YAML::Mark tab = error.mark;
      tab.column = *column;
      builder.fail(tab, "not valid YAML: found a tab in the indentation; indent by spaces");
    }
    if (error.msg.starts_with("the referenced anchor")) builder.refuse_alias(error.mark);
    if (error.msg.find("flow not found") != std::string::npos && builder.has_open()) builder.fail_unclosed();
    builder.fail(error.mark, "not valid YAML: " + shown(error.msg));
  }
  root = builder.take();
  return builder.has_document();
}

// Whether YAML 1.1 and 1.2 readers take this plain scalar for a text.
bool is_safe_plain(std::string_view text) {
  static const std::set<std::string, std::less<>> kWords = {"null", "true", "false", "yes",  "no",  "on",
                                                            "off",  "y",    "n",     ".inf", ".nan"};
  std::string lower;
  for (const unsigned char c : text) lower += static_cast<char>(std::tolower(c));
  const auto inside = [](unsigned char c) {
    return std::isalnum(c) || std::string_view("_/.-+*").find(static_cast<char>(c)) != std::string_view::npos;
  };
  const auto first = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '/' || c == '.'; };
  const bool like_number = !lower.empty() && !std::isalpha(static_cast<unsigned char>(lower[0])) &&
                           lower.find_first_not_of("0123456789abcdefxo_.+-") == std::string::npos;
  return !text.empty() && first(text[0]) && std::ranges::all_of(text, inside) && !like_number &&
         !kWords.contains(lower);
}

}  // namespace

std::vector<std::string> split_key(std::string_view dotted_key) {
  std::vector<std::string> keys(1);
  for (const char c : dotted_key) {
    if (c == '.') {
      keys.emplace_back();
    } else {
      keys.back() += c;
    }
  }
  return keys;
}

std::string ConfigPlace::text() const {
  return line == 0 ? *origin : concat(*origin, ":", line, ":", column);
}

const ConfigTree::Member* ConfigTree::find(std::string_view key) const {
  const auto found = std::ranges::find(members, key, &Member::key);
  return found == members.end() ? nullptr : &*found;
}

ConfigTree::Member* ConfigTree::find(std::string_view key) {
  const auto found = std::ranges::find(members, key, &Member::key);
  return found == members.end() ? nullptr : &*found;
}

std::string ConfigTree::describe() const {
  switch (kind) {
    case Kind::null:
      return "null";
    case Kind::scalar:
      return quoted ? "the text \"" + shown(scalar) + "\"" : "'" + shown(scalar) + "'";
    case Kind::sequence:
      return "a sequence";
    case Kind::mapping:
      break;
  }
  return "a mapping";
}

ConfigTree parse_config_tree(std::string_view text, const std::string& origin) {
  ConfigTree root;
  const bool found = parse(text, origin, false, root);
  if (!found || (root.kind == Kind::null))
    throw UsageError(origin + ": empty; needed a mapping of keys to values");
  if (root.kind != Kind::mapping) {
    throw UsageError(
        concat(root.place.text(), ": found ", root.describe(), ", needed a mapping of keys to values"));
  }
  return root;
}

void apply_override(ConfigTree& root, const std::string& override_text) {
  const std::string origin = "override '" + shown(override_text) + "'";
  const ConfigPlace place{std::make_shared<const std::string>(origin), 0, 0};
  const auto equals = override_text.find('=');
  if (equals == std::string::npos) throw UsageError(origin + ": needed key=value, such as method.rank=64");
  const std::vector<std::string> keys = split_key(override_text.substr(0, equals));
  for (const std::string& key : keys) {
    const bool word = !key.empty() && std::ranges::all_of(key, [](unsigned char c) {
      return std::isalnum(c) || c == '_' || c == '-';
    });
    if (!word)
      throw UsageError(origin + ": the key before '=' is not words joined by points, such as method.rank");
  }
  if (keys.size() > kConfigMaxDepth)
    throw UsageError(concat(origin, ": nested more than ", kConfigMaxDepth, " deep"));
  const std::string_view text = std::string_view(override_text).substr(equals + 1);
  ConfigTree value;
  if (text.empty() || !parse(text, origin, true, value)) {
    throw UsageError(origin + ": no value after '='; write null to remove the key");
  }
  value.place = place;

  ConfigTree* parent = &root;
  std::string path;
  for (std::size_t i = 0; i + 1 < keys.size(); ++i) {
    path += (i == 0 ? "" : ".") + keys[i];
    ConfigTree::Member* member = parent->find(keys[i]);
    if (member == nullptr)
      member = &parent->members.emplace_back(ConfigTree::Member{keys[i], place, {.place = place}});
    if (member->value.kind == Kind::null) member->value = {.kind = Kind::mapping, .place = place};
    if (member->value.kind != Kind::mapping) {
      throw UsageError(concat(origin, ": ", path, " is ", member->value.describe(), ", not a mapping"));
    }
    parent = &member->value;
  }
  ConfigTree::Member* member = parent->find(keys.back());
  if (member == nullptr) {
    // A null of an unknown key stays in the tree, so that a mistyped removal is refused as an unknown key.
    parent->members.push_back({keys.back(), place, std::move(value)});
  } else if (value.kind == Kind::null) {
    parent->members.erase(parent->members.begin() + (member - parent->members.data()));
  } else {
    member->value = std::move(value);
  }
}

std::string to_flow_yaml(const ConfigTree& tree) {
  std::string out;
  switch (tree.kind) {
    case Kind::null:
      return "null";
    case Kind::scalar:
      if (!tree.quoted && (tree.scalar == "true" || tree.scalar == "false")) return tree.scalar;
      return quote_scalar(tree.scalar, !tree.quoted);
    case Kind::sequence:
      for (const ConfigTree& item : tree.items) out += (out.empty() ? "" : ", ") + to_flow_yaml(item);
      return "[" + out + "]";
    case Kind::mapping:
      for (const ConfigTree::Member& member : tree.members) {
        out += (out.empty() ? "" : ", ") + quote_scalar(member.key, false) + ": " + to_flow_yaml(member.value);
      }
      break;
  }
  return "{" + out + "}";
}

std::string quote_scalar(std::string_view text, bool may_be_number) {
  const bool number = parse_integer(text) || parse_real(text);
  if (number ? may_be_number : is_safe_plain(text)) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += std::string("\\") + c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      constexpr std::string_view kHex = "0123456789abcdef";
      quoted += std::string("\\x") + kHex[c >> 4] + kHex[c & 15];
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace kumiko
