// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cmath>
#include <cstdio>

#include "framework/core/error.hpp"
#include "framework/core/format.hpp"
#include "tools/ablate/format.hpp"

namespace kumiko::tools {
namespace {

constexpr const char* kNone = "–";

// A cell of Markdown: no bar ends it and nothing in it is markup.
std::string escape_markdown(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("|\\`*_<>[]#").find(c) != std::string_view::npos) out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

// RFC 4180. A text that a spreadsheet would take for a formula is kept from it by a quote.
std::string escape_csv(const std::string& text) {
  const bool formula = !text.empty() &&
                       std::string_view("=+-@").find(text.front()) != std::string_view::npos &&
                       !parse_real(text);
  const std::string value = (formula ? "'" : "") + text;
  if (value.find_first_of(",\"\n\r") == std::string::npos) return value;
  std::string out = "\"";
  for (const char c : value) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string number_or_none(bool known, const std::string& text) { return known ? text : ""; }

}  // namespace

std::string fixed(double value, int digits) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string perplexity_cell(const Estimate& estimate) {
  if (estimate.n == 0) return kNone;
  const int digits = estimate.mean < 1000 ? 2 : 0;
  return fixed(estimate.mean, digits) +
         (estimate.standard_error ? " ± " + fixed(*estimate.standard_error, digits) : "");
}

std::string difference_cell(const Row& row) {
  if (row.is_baseline) return "baseline";
  const Estimate& difference = row.difference;
  if (difference.n == 0) return kNone;
  const int digits = std::abs(difference.mean) < 1000 ? 2 : 0;
  std::string text = (difference.mean >= 0 ? "+" : "") + fixed(difference.mean, digits);
  if (difference.half_width) {
    text += concat(" [", fixed(difference.mean - *difference.half_width, digits), ", ",
                   fixed(difference.mean + *difference.half_width, digits), "]");
  }
  return text + concat(", n ", difference.n);
}

std::string bytes_cell(std::int64_t bytes) { return bytes > 0 ? format_bytes(bytes) : kNone; }

std::string refresh_cell(const Row& row) {
  if (!row.refresh_seconds || row.finished == 0) return kNone;
  return fixed(*row.refresh_seconds, *row.refresh_seconds < 100 ? 1 : 0) + " s (" +
         fixed(100 * row.refresh_share.value_or(0.0), 1) + " %)";
}

std::vector<std::string> column_names(const Report& report) {
  return {"variant",
          "perplexity",
          "difference to " + report.baseline,
          "runs",
          "learning rate",
          "parameters",
          "trained",
          "memory: papers",
          "memory: plan",
          "memory: peak",
          "tokens/s",
          "refresh",
          "merges",
          "note"};
}

std::vector<std::string> cells_of(const Row& row) {
  const bool any = row.finished > 0;
  return {row.variant,
          perplexity_cell(row.ppl),
          difference_cell(row),
          concat(row.finished, "/", row.planned),
          row.lr,
          row.parameters > 0 ? format_count(row.parameters) : kNone,
          row.trained_parameters > 0 ? format_count(row.trained_parameters) : kNone,
          bytes_cell(row.paper_bytes),
          bytes_cell(row.plan_bytes),
          bytes_cell(row.peak_bytes),
          row.tokens_per_s > 0 ? fixed(row.tokens_per_s, 0) : kNone,
          refresh_cell(row),
          any ? concat(row.merges) : kNone,
          row.note};
}

std::string to_markdown(const Report& report) {
  std::string text = "# " + escape_markdown(report.title) + "\n\n";
  for (const auto& remark : report.remarks) text += "- " + escape_markdown(remark) + "\n";
  if (!report.remarks.empty()) text += "\n";
  std::string head = "|";
  std::string line = "|";
  for (const auto& name : column_names(report)) {
    head += " " + escape_markdown(name) + " |";
    line += "---|";
  }
  text += head + "\n" + line + "\n";
  for (const Row& row : make_rows(report)) {
    text += "|";
    for (const auto& cell : cells_of(row)) text += " " + escape_markdown(cell) + " |";
    text += "\n";
  }
  text += "\nPerplexity: mean ± standard error over seeds, on " + escape_markdown(report.measured_on) +
          ". Difference: mean over the seeds that both have, [95 % confidence interval by Student's t], n "
          "seeds. Memory: papers: weights and "
          "optimizer states by the papers' arithmetic (bf16, NF4 at 0.5625 bytes, no gradients and "
          "activations); plan: all that one rank "
          "allocates; peak: resident, measured.\n";
  const auto rows = make_rows(report);
  if (rows.size() > 1) text += "\n## What differs from " + escape_markdown(report.baseline) + "\n\n";
  for (const Row& row : rows) {
    if (!row.differs.empty())
      text += "- " + escape_markdown(row.variant) + ": " + escape_markdown(row.differs) + "\n";
  }
  if (!report.failures.empty())
    text += "\n## Runs that failed\n\n| run | exit code | reason | log |\n|---|---|---|---|\n";
  for (const FailedRun& failed : report.failures) {
    text += concat("| ", escape_markdown(failed.run), " | ", failed.failure.exit_code, " | ",
                   escape_markdown(failed.failure.reason), " | ",
                   escape_markdown(failed.failure.log.string()), " |\n");
  }
  return text;
}

std::string to_csv(const Report& report) {
  std::string text =
      "variant,ppl_mean,ppl_standard_error,ppl_published_convention_mean,ppl_published_convention_standard_"
      "error,difference_mean,"
      "difference_low,difference_high,difference_n,runs_finished,runs_planned,lr,parameters,trained_"
      "parameters,paper_bytes,plan_bytes,"
      "peak_bytes,tokens_per_s,refresh_seconds,refresh_share,merges,differs,note\n";
  const auto real = [](bool known, double value) {
    return number_or_none(known, known ? format_real(value) : "");
  };
  const auto count = [](std::int64_t value) { return value > 0 ? concat(value) : std::string(); };
  for (const Row& row : make_rows(report)) {
    const Estimate& d = row.difference;
    const double half = d.half_width.value_or(0.0);
    const std::vector<std::string> cells = {
        row.variant,
        real(row.ppl.n > 0, row.ppl.mean),
        real(row.ppl.standard_error.has_value(), row.ppl.standard_error.value_or(0)),
        real(row.published.n > 0, row.published.mean),
        real(row.published.standard_error.has_value(), row.published.standard_error.value_or(0)),
        real(d.n > 0, d.mean),
        real(d.half_width.has_value(), d.mean - half),
        real(d.half_width.has_value(), d.mean + half),
        concat(d.n),
        concat(row.finished),
        concat(row.planned),
        row.lr,
        count(row.parameters),
        count(row.trained_parameters),
        count(row.paper_bytes),
        count(row.plan_bytes),
        count(row.peak_bytes),
        real(row.tokens_per_s > 0, row.tokens_per_s),
        real(row.refresh_seconds.has_value(), row.refresh_seconds.value_or(0)),
        real(row.refresh_share.has_value(), row.refresh_share.value_or(0)),
        number_or_none(row.finished > 0, concat(row.merges)),
        row.differs,
        row.note};
    for (std::size_t i = 0; i < cells.size(); ++i) text += (i == 0 ? "" : ",") + escape_csv(cells[i]);
    text += "\n";
  }
  return text;
}

}  // namespace kumiko::tools
