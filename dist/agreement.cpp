// SPDX-License-Identifier: Apache-2.0
#include "dist/agreement.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"

namespace kumiko::dist {
namespace {

// "LENGTH:bytes", so that any byte may be inside.
void append(std::string& out, std::string_view part) { out += concat(part.size(), ":", part); }

std::string_view take(std::string_view& rest) {
  const std::size_t colon = rest.find(':');
  TORCH_INTERNAL_ASSERT(colon != std::string_view::npos);
  const std::size_t length = std::stoull(std::string(rest.substr(0, colon)));
  const std::string_view part = rest.substr(colon + 1, length);
  rest.remove_prefix(colon + 1 + length);
  return part;
}

std::string pack(const Facts& facts) {
  std::string out;
  for (const auto& [name, value] : facts) {
    append(out, name);
    append(out, value);
  }
  return out;
}

Facts unpack(std::string_view text) {
  Facts facts;
  while (!text.empty()) {
    const std::string_view name = take(text);
    facts.emplace_back(name, take(text));
  }
  return facts;
}

std::optional<std::string> find(const Facts& facts, const std::string& name) {
  const auto found =
      std::find_if(facts.begin(), facts.end(), [&](const auto& fact) { return fact.first == name; });
  return found == facts.end() ? std::nullopt : std::optional(found->second);
}

// The first name that some rank has otherwise than rank 0: in the order of rank 0, then what rank 0 lacks.
std::optional<std::string> first_difference(const std::vector<Facts>& by_rank) {
  for (const auto& [name, value] : by_rank.front()) {
    for (const Facts& facts : by_rank) {
      if (find(facts, name) != value) return name;
    }
  }
  for (const Facts& facts : by_rank) {
    for (const auto& [name, value] : facts) {
      if (!find(by_rank.front(), name)) return name;
    }
  }
  return std::nullopt;
}

std::vector<std::string_view> lines(std::string_view text) {
  std::vector<std::string_view> result;
  while (true) {
    const std::size_t end = text.find('\n');
    result.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return result;
    text.remove_prefix(end + 1);
  }
}

struct Difference {
  std::string line;  // "" or " (line 3)"
  std::string reference;
  std::string other;
};

std::string shown(const std::vector<std::string_view>& all, std::size_t line) {
  return line < all.size() ? concat("'", all[line], "'") : std::string("no such line");
}

Difference describe(const std::optional<std::string>& reference, const std::optional<std::string>& other) {
  if (!reference || !other) {
    const auto whole = [](const auto& value) {
      return value ? concat("'", lines(*value).front(), "'") : std::string("nothing");
    };
    return {"", whole(reference), whole(other)};
  }
  const auto a = lines(*reference);
  const auto b = lines(*other);
  std::size_t at = 0;
  while (at < a.size() && at < b.size() && a[at] == b[at]) ++at;
  return {a.size() == 1 && b.size() == 1 ? "" : concat(" (line ", at + 1, ")"), shown(a, at), shown(b, at)};
}

std::string rank_list(const std::vector<int>& ranks) {
  std::string out = ranks.size() == 1 ? "rank" : "ranks";
  for (std::size_t i = 0; i < ranks.size(); ++i) out += concat(i == 0 ? " " : ", ", ranks[i]);
  return out;
}

std::string disagreement(const std::vector<Facts>& by_rank, const std::string& name) {
  const std::optional<std::string> reference = find(by_rank.front(), name);
  std::vector<int> with_first;  // the ranks with rank 0's value
  std::vector<int> with_other;  // those that share the first other value
  std::vector<int> with_more;
  std::optional<std::optional<std::string>> other;
  for (int rank = 0; rank < static_cast<int>(by_rank.size()); ++rank) {
    const std::optional<std::string> value = find(by_rank[rank], name);
    if (value == reference) {
      with_first.push_back(rank);
      continue;
    }
    if (!other) other = value;
    (value == *other ? with_other : with_more).push_back(rank);
  }
  const Difference difference = describe(reference, *other);
  std::string out =
      concat("the ranks disagree on ", name, difference.line, ": ", rank_list(with_first),
             with_first.size() == 1 ? " has " : " have ", difference.reference, ", ", rank_list(with_other),
             with_other.size() == 1 ? " has " : " have ", difference.other);
  if (!with_more.empty())
    out += concat(", ", rank_list(with_more), with_more.size() == 1 ? " differs too" : " differ too");
  return out + "; start every rank with the same build, recipe and data";
}

}  // namespace

std::vector<std::string> gather_texts(Communicator& comm, const std::string& text) {
  at::Tensor ends = at::zeros({comm.size()}, at::kLong);
  ends[comm.rank()] = static_cast<std::int64_t>(text.size());
  comm.all_reduce(ends, ReduceOp::max)->wait();
  ends = ends.cumsum(0);
  const std::int64_t* end = ends.const_data_ptr<std::int64_t>();
  const auto begin_of = [&](int rank) { return rank == 0 ? 0 : end[rank - 1]; };

  at::Tensor all = at::zeros({end[comm.size() - 1]}, at::kByte);
  auto* bytes = reinterpret_cast<char*>(all.mutable_data_ptr<std::uint8_t>());
  if (!text.empty()) std::memcpy(bytes + begin_of(comm.rank()), text.data(), text.size());
  comm.all_reduce(all, ReduceOp::max)->wait();

  std::vector<std::string> result;
  for (int rank = 0; rank < comm.size(); ++rank)
    result.emplace_back(bytes + begin_of(rank), bytes + end[rank]);
  return result;
}

void require_agreement(Communicator& comm, const Facts& facts) {
  std::vector<Facts> by_rank;
  for (const std::string& text : gather_texts(comm, pack(facts))) by_rank.push_back(unpack(text));
  const std::optional<std::string> name = first_difference(by_rank);
  if (name) throw UsageError(disagreement(by_rank, *name));
}

}  // namespace kumiko::dist
