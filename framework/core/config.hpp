// SPDX-License-Identifier: Apache-2.0
// A strict reader of YAML trees. Each component reads its own block; what nobody read is an error.
// The values read, given or default, form the resolved tree that is written beside a run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace kumiko {

struct ConfigTree;

struct IntRange {
  std::int64_t min = 0;
  std::int64_t max = std::numeric_limits<std::int64_t>::max();
};

struct RealRange {   // closed; never NaN
  double min = std::numeric_limits<double>::lowest();
  double max = std::numeric_limits<double>::max();
};

// A view of one mapping inside a parsed document; cheap to copy. All errors are UsageError
// "FILE:LINE:COLUMN: a.b: found what, needed what" (or "override 'a.b=v': ..."), with "did you mean" where a key is near.
class ConfigNode {
 public:
  // Each override is "a.b=value"; the value is YAML of at most one flow collection and replaces what was there whole;
  // "a.b=null" removes the key; the last of several wins. Refuses: files over 1 MiB, invalid UTF-8,
  // NUL, anchors, aliases, tags, merge keys, duplicate keys, a second document, nesting beyond 32, a root that is no mapping.
  static ConfigNode parse_file(const std::filesystem::path& file, std::span<const std::string> overrides = {});
  static ConfigNode parse_text(std::string_view text, const std::string& origin, std::span<const std::string> overrides = {});

  // A tree put together from several files; each error names the place that its value came from, `origin` where there is none.
  static ConfigNode from_tree(ConfigTree tree, const std::string& origin);

  const std::string& path() const noexcept;                  // "" at the root, else "method.basis"
  bool has(std::string_view key) const;                      // present in the file or an override (null counts as absent)
  ConfigNode child(std::string_view key) const;              // a nested mapping; an absent one is empty

  const ConfigTree* tree(std::string_view key) const;        // any value as written, read as a whole; null where absent

  // Scalars. The first form needs the key; the second records `fallback` as the resolved value when it is absent.
  // Integers accept 123 and 1_000; reals accept those, 1e-3, .5; never octal or hex; booleans are true and false only.
  std::int64_t integer(std::string_view key, IntRange range = {}) const;
  std::int64_t integer(std::string_view key, std::int64_t fallback, IntRange range) const;
  double real(std::string_view key, RealRange range = {}) const;
  double real(std::string_view key, double fallback, RealRange range) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string text(std::string_view key) const;
  std::string text(std::string_view key, const std::string& fallback) const;
  std::int64_t bytes(std::string_view key, const std::string& fallback) const;   // "64MiB", as parse_bytes reads it

  // A scalar or a sequence of scalars.
  std::vector<std::string> texts(std::string_view key, const std::vector<std::string>& fallback) const;
  std::vector<std::int64_t> integers(std::string_view key, const std::vector<std::int64_t>& fallback, IntRange range = {}) const;
  std::vector<double> reals(std::string_view key, const std::vector<double>& fallback, RealRange range = {}) const;

  // One of a few words; an unknown one is an error that lists them (with "did you mean").
  template <class E>
  E choice(std::string_view key, E fallback, std::span<const std::pair<std::string_view, std::type_identity_t<E>>> words) const {
    std::vector<std::string_view> names;
    std::size_t fallback_index = 0;
    for (std::size_t i = 0; i < words.size(); ++i) {
      names.push_back(words[i].first);
      if (words[i].second == fallback) fallback_index = i;
    }
    return words[choice_index(key, fallback_index, names)].second;
  }
  std::size_t choice_index(std::string_view key, std::size_t fallback, std::span<const std::string_view> names) const;

  // "auto" gives nullopt and is the default; otherwise an integer in `range`.
  std::optional<std::int64_t> integer_or_auto(std::string_view key, IntRange range = {}) const;

  // Replaces the resolved value of a key (micro_batch_size: auto becomes the number chosen).
  void resolve(std::string_view key, std::string value) const;

  [[noreturn]] void fail(std::string_view key, const std::string& message) const;   // an error at the place of this key
  void finish() const;              // every key below this node has been read, else an error at the first that has not
  std::string to_yaml() const;      // the resolved tree of this node, in the order read

 private:
  struct Document;
  struct Entry;
  ConfigNode(std::shared_ptr<Document> document, Entry* entry) : document_(std::move(document)), entry_(entry) {}
  std::shared_ptr<Document> document_;
  Entry* entry_ = nullptr;
};

}  // namespace kumiko
