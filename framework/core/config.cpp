// SPDX-License-Identifier: Apache-2.0
#include "framework/core/config.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <optional>

#include "framework/core/config_tree.hpp"
#include "framework/core/error.hpp"
#include "framework/core/format.hpp"
#include "framework/core/words.hpp"

namespace kumiko {

// One mapping and what has been asked of it.
struct ConfigNode::Entry {
  struct Read {
    std::string key;
    std::string resolved;   // as YAML; unused where there is a child
    bool replaced = false;  // by resolve(): later reads leave it
    std::unique_ptr<Entry> child;
  };

  std::string path;
  const ConfigTree* tree = nullptr;  // null: absent
  ConfigPlace place;                 // of the key of this mapping
  std::vector<Read> reads;

  std::string path_of(std::string_view key) const {
    return path.empty() || key.empty() ? path + std::string(key) : path + "." + std::string(key);
  }

  // The key's value, null where there is none.
  const ConfigTree* value(std::string_view key) const {
    const ConfigTree::Member* member = tree == nullptr ? nullptr : tree->find(key);
    return member == nullptr || member->value.kind == ConfigTree::Kind::null ? nullptr : &member->value;
  }

  const Read* find(std::string_view key) const {
    const auto found = std::ranges::find(reads, key, &Read::key);
    return found == reads.end() ? nullptr : &*found;
  }

  Read& read(std::string_view key) {
    const auto found = std::ranges::find(reads, key, &Read::key);
    return found != reads.end() ? *found : reads.emplace_back(Read{.key = std::string(key)});
  }

  void record(std::string_view key, std::string resolved) {
    Read& entry = read(key);
    if (!entry.replaced) entry.resolved = std::move(resolved);
  }

  [[noreturn]] static void fail_at(const ConfigPlace& place, const std::string& path,
                                   const std::string& message) {
    throw UsageError(place.text() + ": " + (path.empty() ? "" : path + ": ") + message);
  }

  [[noreturn]] void fail_value(std::string_view key, const ConfigTree& value,
                               const std::string& message) const {
    fail_at(value.place, path_of(key), message);
  }

  [[noreturn]] void fail_missing(std::string_view key, const std::string& needed) {
    std::vector<std::string> unread;
    for (std::size_t i = 0; tree != nullptr && i < tree->members.size(); ++i) {
      if (tree->members[i].key != key && find(tree->members[i].key) == nullptr)
        unread.push_back(tree->members[i].key);
    }
    const std::optional<std::string> near = nearest_word(key, unread);
    const std::string hint =
        near ? concat("; is '", *near, "' (", tree->find(*near)->place.text(), ") meant?") : "";
    read(key);
    fail_at(place, path_of(key), "missing, needed " + needed + hint);
  }

  // "a.b" of the first mapping that was asked for `key`, this one apart.
  std::optional<std::string> path_elsewhere(std::string_view key, const Entry& not_here) const {
    if (this != &not_here && find(key) != nullptr) return path_of(key);
    for (const Read& entry : reads) {
      if (entry.child == nullptr) continue;
      if (auto found = entry.child->path_elsewhere(key, not_here)) return found;
    }
    return std::nullopt;
  }

  void check_all_read(const Entry& root) const {
    for (std::size_t i = 0; tree != nullptr && i < tree->members.size(); ++i) {
      const ConfigTree::Member& member = tree->members[i];
      const Read* entry = find(member.key);
      if (entry == nullptr) fail_unknown(member, root);
      if (entry->child != nullptr) entry->child->check_all_read(root);
    }
  }

  [[noreturn]] void fail_unknown(const ConfigTree::Member& member, const Entry& root) const {
    std::vector<std::string> known;
    for (const Read& entry : reads) known.push_back(entry.key);
    std::optional<std::string> near = nearest_word(member.key, known);
    if (!near) near = root.path_elsewhere(member.key, *this);
    const std::string hint = near            ? "did you mean '" + *near + "'?"
                             : known.empty() ? "no key is known here"
                                             : "known here: " + join_words(known);
    fail_at(member.place, path_of(member.key), "unknown key; " + hint);
  }

  void print(std::string& out, const std::string& indent) const {
    for (const Read& entry : reads) {
      out += indent + quote_scalar(entry.key, false) + ":";
      if (entry.child == nullptr) {
        out += " " + entry.resolved + "\n";
      } else if (entry.child->reads.empty()) {
        out += " {}\n";
      } else {
        out += "\n";
        entry.child->print(out, indent + "  ");
      }
    }
  }

  // Applies `convert(key, scalar)` to a scalar or to each item of a sequence.
  template <class Convert>
  auto list(std::string_view key, const ConfigTree& value, const std::string& needed,
            const Convert& convert) const {
    std::vector<decltype(convert(key, value))> result;
    if (value.kind == ConfigTree::Kind::scalar) {
      result.push_back(convert(key, value));
      return result;
    }
    if (value.kind != ConfigTree::Kind::sequence) {
      fail_value(key, value, "found " + value.describe() + ", needed " + needed + " or a sequence of such");
    }
    for (std::size_t i = 0; i < value.items.size(); ++i) {
      result.push_back(convert(concat(key, "[", i, "]"), value.items[i]));
    }
    return result;
  }

  std::int64_t to_integer(std::string_view key, const ConfigTree& value, const IntRange& range) const;
  double to_real(std::string_view key, const ConfigTree& value, const RealRange& range) const;
  std::string to_text(std::string_view key, const ConfigTree& value) const;
};

struct ConfigNode::Document {
  ConfigTree tree;
  Entry root;
};

namespace {

using Kind = ConfigTree::Kind;

template <class Range, class Print>
std::string needed(const std::string& noun, const Range& range, const Range& widest, const Print& print) {
  if (range.min == widest.min && range.max == widest.max) return noun;
  if (range.max == widest.max) return concat(noun, " >= ", print(range.min));
  if (range.min == widest.min) return concat(noun, " <= ", print(range.max));
  return concat(noun, " from ", print(range.min), " to ", print(range.max));
}

std::string needed_integer(const IntRange& range) {
  return needed("an integer", range, IntRange{.min = std::numeric_limits<std::int64_t>::min()},
                [](auto value) { return value; });
}

std::string needed_real(const RealRange& range) {
  return needed("a number", range, RealRange{}, format_real);
}

std::string number_hint(const ConfigTree& value) {
  if (value.quoted) return parse_real(value.scalar) ? "; write it without quotes" : "";
  const auto significant = value.scalar.find_first_not_of("+-0");
  const bool leading_zeros = significant != std::string::npos && significant > 0 &&
                             parse_real(value.scalar.substr(significant)) &&
                             std::isdigit(static_cast<unsigned char>(value.scalar[significant]));
  return leading_zeros && !parse_real(value.scalar) ? "; write it without leading zeros" : "";
}

std::string integer_hint(const ConfigTree& value) {
  constexpr double kExactBelow = 9007199254740992.0;  // 2^53
  const std::optional<double> real = value.quoted ? std::nullopt : parse_real(value.scalar);
  if (real && std::abs(*real) < kExactBelow && *real == std::floor(*real) && !parse_integer(value.scalar)) {
    return concat("; write it as ", static_cast<std::int64_t>(*real));
  }
  return number_hint(value);
}

template <class T, class Print>
std::string flow_list(const std::vector<T>& values, const Print& print) {
  std::vector<std::string> words;
  for (const T& value : values) words.push_back(print(value));
  return "[" + join_words(words) + "]";
}

std::string print_text(const std::string& text) { return quote_scalar(text, false); }
std::string print_integer(std::int64_t value) { return concat(value); }

std::string read_bounded(const std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error))
    throw UsageError(file.string() + ": found a folder, needed a YAML file");
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  if (!in) throw UsageError(file.string() + ": cannot be opened: " + std::strerror(errno));
  std::string text(kConfigMaxBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) throw UsageError(file.string() + ": cannot be read: " + std::strerror(errno));
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

}  // namespace

std::int64_t ConfigNode::Entry::to_integer(std::string_view key, const ConfigTree& value,
                                           const IntRange& range) const {
  const bool plain = value.kind == Kind::scalar && !value.quoted;
  const std::optional<std::int64_t> number = plain ? parse_integer(value.scalar) : std::nullopt;
  if (!number || *number < range.min || *number > range.max) {
    const std::string hint = value.kind == Kind::scalar ? integer_hint(value) : "";
    fail_value(key, value, "found " + value.describe() + ", needed " + needed_integer(range) + hint);
  }
  return *number;
}

double ConfigNode::Entry::to_real(std::string_view key, const ConfigTree& value,
                                  const RealRange& range) const {
  const bool plain = value.kind == Kind::scalar && !value.quoted;
  const std::optional<double> number = plain ? parse_real(value.scalar) : std::nullopt;
  if (!number || *number < range.min || *number > range.max) {
    const std::string hint = value.kind == Kind::scalar ? number_hint(value) : "";
    fail_value(key, value, "found " + value.describe() + ", needed " + needed_real(range) + hint);
  }
  return *number;
}

std::string ConfigNode::Entry::to_text(std::string_view key, const ConfigTree& value) const {
  if (value.kind != Kind::scalar) fail_value(key, value, "found " + value.describe() + ", needed a text");
  return value.scalar;
}

ConfigNode ConfigNode::parse_file(const std::filesystem::path& file, std::span<const std::string> overrides) {
  return parse_text(read_bounded(file), file.string(), overrides);
}

ConfigNode ConfigNode::parse_text(std::string_view text, const std::string& origin,
                                  std::span<const std::string> overrides) {
  ConfigTree tree = parse_config_tree(text, origin);
  for (const std::string& override_text : overrides) apply_override(tree, override_text);
  return from_tree(std::move(tree), origin);
}

ConfigNode ConfigNode::from_tree(ConfigTree tree, const std::string& origin) {
  auto document = std::make_shared<Document>();
  document->tree = std::move(tree);
  document->root.tree = &document->tree;
  document->root.place = {std::make_shared<const std::string>(origin), 0, 0};
  Entry* root = &document->root;
  return {std::move(document), root};
}

const std::string& ConfigNode::path() const noexcept { return entry_->path; }

bool ConfigNode::has(std::string_view key) const { return entry_->value(key) != nullptr; }

ConfigNode ConfigNode::child(std::string_view key) const {
  Entry::Read& read = entry_->read(key);
  if (read.child == nullptr) {
    const ConfigTree* value = entry_->value(key);
    if (value != nullptr && value->kind != Kind::mapping) {
      entry_->fail_value(key, *value, "found " + value->describe() + ", needed a mapping");
    }
    read.child = std::make_unique<Entry>();
    read.child->path = entry_->path_of(key);
    read.child->tree = value;
    read.child->place = value == nullptr ? entry_->place : entry_->tree->find(key)->place;
  }
  return {document_, read.child.get()};
}

const ConfigTree* ConfigNode::tree(std::string_view key) const {
  const ConfigTree* value = entry_->value(key);
  entry_->record(key, value == nullptr ? "null" : to_flow_yaml(*value));
  return value;
}

std::int64_t ConfigNode::integer(std::string_view key, IntRange range) const {
  if (!has(key)) entry_->fail_missing(key, needed_integer(range));
  return integer(key, 0, range);
}

std::int64_t ConfigNode::integer(std::string_view key, std::int64_t fallback, IntRange range) const {
  const ConfigTree* value = entry_->value(key);
  const std::int64_t result = value == nullptr ? fallback : entry_->to_integer(key, *value, range);
  entry_->record(key, print_integer(result));
  return result;
}

double ConfigNode::real(std::string_view key, RealRange range) const {
  if (!has(key)) entry_->fail_missing(key, needed_real(range));
  return real(key, 0.0, range);
}

double ConfigNode::real(std::string_view key, double fallback, RealRange range) const {
  const ConfigTree* value = entry_->value(key);
  const double result = value == nullptr ? fallback : entry_->to_real(key, *value, range);
  entry_->record(key, format_real(result));
  return result;
}

bool ConfigNode::boolean(std::string_view key, bool fallback) const {
  const ConfigTree* value = entry_->value(key);
  const bool is_true =
      value != nullptr && value->kind == Kind::scalar && !value->quoted && value->scalar == "true";
  const bool is_false =
      value != nullptr && value->kind == Kind::scalar && !value->quoted && value->scalar == "false";
  if (value != nullptr && !is_true && !is_false) {
    entry_->fail_value(key, *value, "found " + value->describe() + ", needed true or false");
  }
  const bool result = value == nullptr ? fallback : is_true;
  entry_->record(key, result ? "true" : "false");
  return result;
}

std::string ConfigNode::text(std::string_view key) const {
  if (!has(key)) entry_->fail_missing(key, "a text");
  return text(key, "");
}

std::string ConfigNode::text(std::string_view key, const std::string& fallback) const {
  const ConfigTree* value = entry_->value(key);
  std::string result = value == nullptr ? fallback : entry_->to_text(key, *value);
  entry_->record(key, print_text(result));
  return result;
}

std::int64_t ConfigNode::bytes(std::string_view key, const std::string& fallback) const {
  const std::string value = text(key, fallback);
  try {
    return parse_bytes(value);
  } catch (const UsageError& error) {
    fail(key, error.what());
  }
}

std::vector<std::string> ConfigNode::texts(std::string_view key,
                                           const std::vector<std::string>& fallback) const {
  const ConfigTree* value = entry_->value(key);
  const auto convert = [&](std::string_view item, const ConfigTree& node) {
    return entry_->to_text(item, node);
  };
  auto result = value == nullptr ? fallback : entry_->list(key, *value, "a text", convert);
  entry_->record(key, flow_list(result, print_text));
  return result;
}

std::vector<std::int64_t> ConfigNode::integers(std::string_view key,
                                               const std::vector<std::int64_t>& fallback,
                                               IntRange range) const {
  const ConfigTree* value = entry_->value(key);
  const auto convert = [&](std::string_view item, const ConfigTree& node) {
    return entry_->to_integer(item, node, range);
  };
  auto result = value == nullptr ? fallback : entry_->list(key, *value, needed_integer(range), convert);
  entry_->record(key, flow_list(result, print_integer));
  return result;
}

std::vector<double> ConfigNode::reals(std::string_view key, const std::vector<double>& fallback,
                                      RealRange range) const {
  const ConfigTree* value = entry_->value(key);
  const auto convert = [&](std::string_view item, const ConfigTree& node) {
    return entry_->to_real(item, node, range);
  };
  auto result = value == nullptr ? fallback : entry_->list(key, *value, needed_real(range), convert);
  entry_->record(key, flow_list(result, format_real));
  return result;
}

std::size_t ConfigNode::choice_index(std::string_view key, std::size_t fallback,
                                     std::span<const std::string_view> names) const {
  const ConfigTree* value = entry_->value(key);
  std::size_t index = fallback;
  if (value != nullptr) {
    index = value->kind == Kind::scalar
                ? static_cast<std::size_t>(std::ranges::find(names, value->scalar) - names.begin())
                : names.size();
    if (index == names.size()) {
      const std::vector<std::string> words(names.begin(), names.end());
      const auto near = value->kind == Kind::scalar ? nearest_word(value->scalar, words) : std::nullopt;
      const std::string hint = near ? "; did you mean '" + *near + "'?" : "";
      entry_->fail_value(key, *value,
                         "found " + value->describe() + ", needed one of " + join_words(words) + hint);
    }
  }
  entry_->record(key, print_text(std::string(names[index])));
  return index;
}

std::optional<std::int64_t> ConfigNode::integer_or_auto(std::string_view key, IntRange range) const {
  const ConfigTree* value = entry_->value(key);
  const bool is_scalar = value != nullptr && value->kind == Kind::scalar;
  if (value == nullptr || (is_scalar && value->scalar == "auto")) {
    entry_->record(key, "auto");
    return std::nullopt;
  }
  if (!is_scalar || value->quoted || !parse_integer(value->scalar)) {
    const std::string hint = is_scalar ? integer_hint(*value) : "";
    entry_->fail_value(key, *value,
                       "found " + value->describe() + ", needed auto or " + needed_integer(range) + hint);
  }
  return integer(key, 0, range);
}

void ConfigNode::resolve(std::string_view key, std::string value) const {
  Entry::Read& read = entry_->read(key);
  read.resolved = quote_scalar(value, true);
  read.replaced = true;
}

void ConfigNode::fail(std::string_view key, const std::string& message) const {
  const ConfigTree* value = key.empty() ? nullptr : entry_->value(key);
  Entry::fail_at(value == nullptr ? entry_->place : value->place, entry_->path_of(key), message);
}

void ConfigNode::finish() const { entry_->check_all_read(document_->root); }

std::string ConfigNode::to_yaml() const {
  if (entry_->reads.empty()) return "{}\n";
  std::string out;
  entry_->print(out, "");
  return out;
}

}  // namespace kumiko
