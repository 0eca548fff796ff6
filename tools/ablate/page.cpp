// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>

#include "framework/core/error.hpp"
#include "tools/ablate/chart.hpp"
#include "tools/ablate/format.hpp"

namespace kumiko::tools {
namespace {

constexpr std::int64_t kMaxPoints = 240;  // of a curve; more are averaged

constexpr const char* kStyle = R"(
:root{--paper:#fff;--ink:#1c1f23;--soft:#5c6670;--rule:#d9dee3;--tint:#f4f6f8;--warn:#8a4b00;--warn-tint:#fff4e2;
--c0:#0b62b8;--c1:#d1560a;--c2:#0a7d53;--c3:#b0307c;--c4:#6b4fc4;--c5:#8a6d00;--c6:#0590a6;--c7:#6b7480}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e6e9ec;--soft:#9aa5b0;--rule:#343b42;--tint:#1c2126;--warn:#ffc069;--warn-tint:#2c2313;
--c0:#6cb2ff;--c1:#ff9a57;--c2:#4fd39b;--c3:#ff86c8;--c4:#b3a0ff;--c5:#e2c044;--c6:#52d3e6;--c7:#aab4be}}
*{box-sizing:border-box}body{margin:0 auto;max-width:84rem;padding:2rem 1.25rem 4rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:2.25rem 0 .5rem}p{margin:.25rem 0;max-width:70rem}.soft{color:var(--soft);font-size:.875rem}
.remarks{margin:1rem 0;padding:.5rem 1rem .5rem 2rem;background:var(--warn-tint);color:var(--warn);border-radius:.375rem;font-size:.9rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.8rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.35rem .5rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap;vertical-align:top}th{color:var(--soft);font-weight:600;white-space:normal;vertical-align:bottom}
th:first-child,td:first-child,td.text,th.text{text-align:left}td.text{white-space:normal;min-width:5rem}td.text:last-child{min-width:9rem}tr.baseline td{background:var(--tint)}td:first-child{font-weight:600}
svg{display:block;width:100%;height:auto;}svg text{fill:var(--soft);font:12px system-ui,sans-serif}svg .label{font-size:13px}
.grid{stroke:var(--rule);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}.line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.band{fill:currentColor;opacity:.14}circle{fill:currentColor}.dashed .line{stroke-dasharray:6 4}
.s0{color:var(--c0)}.s1{color:var(--c1)}.s2{color:var(--c2)}.s3{color:var(--c3)}.s4{color:var(--c4)}.s5{color:var(--c5)}.s6{color:var(--c6)}.s7{color:var(--c7)}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:.25rem 0 .5rem;padding:0;list-style:none;font-size:.875rem}
.legend i{display:inline-block;width:1.6rem;border-top:3px solid currentColor;vertical-align:middle;margin-right:.45rem}.legend .dashed i{border-top-style:dashed}.legend span{color:var(--ink)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.5rem;font-size:.9rem;margin:0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
pre{overflow-x:auto;background:var(--tint);padding:1rem;border-radius:.375rem;font-size:.8rem;line-height:1.4}summary{cursor:pointer;color:var(--soft);margin-top:.75rem})";

using Values = std::vector<CurvePoint> RunResult::*;

// The runs' values in bins of steps: mean, least and greatest over the runs of their means in the bin.
std::vector<ChartPoint> combine(const std::vector<RunResult>& runs, Values values) {
  std::int64_t last = 1;
  for (const RunResult& run : runs) {
    if (!(run.*values).empty()) last = std::max(last, (run.*values).back().step);
  }
  const std::int64_t width = (last + kMaxPoints - 1) / kMaxPoints;
  std::map<std::int64_t, std::vector<double>> bins;      // of the runs
  std::map<std::int64_t, std::pair<double, int>> steps;  // sums, to stand at the mean step
  for (const RunResult& run : runs) {
    std::map<std::int64_t, std::vector<double>> own;
    for (const CurvePoint& point : run.*values) {
      own[point.step / width].push_back(point.value);
      auto& [sum, count] = steps[point.step / width];
      sum += static_cast<double>(point.step);
      ++count;
    }
    for (const auto& [bin, list] : own) bins[bin].push_back(estimate(list).mean);
  }
  std::vector<ChartPoint> points;
  for (const auto& [bin, list] : bins) {
    const auto [least, greatest] = std::ranges::minmax(list);
    points.push_back({steps[bin].first / steps[bin].second, estimate(list).mean, least, greatest});
  }
  return points;
}

std::string legend(const Report& report) {
  std::string html = "<ul class=\"legend\">";
  for (std::size_t i = 0; i < report.variants.size(); ++i) {
    html += concat("<li class=\"s", i % kSeriesColors, i >= kSeriesColors ? " dashed" : "",
                   "\"><i></i><span>", escape_html(report.variants[i].name), "</span></li>");
  }
  return html + "</ul>";
}

std::string chart_section(const Report& report, Chart chart, Values values, const std::string& note) {
  for (std::size_t i = 0; i < report.variants.size(); ++i) {
    chart.series.push_back({report.variants[i].name, i, combine(report.variants[i].shown, values)});
  }
  const std::string svg = draw(chart);
  if (svg.empty()) return "";
  return "<h2>" + escape_html(chart.title) + "</h2>" + legend(report) + svg + "<p class=\"soft\">" +
         escape_html(note) + "</p>";
}

// An interval stands below its middle.
std::string cell_html(const std::string& cell) {
  std::string html = escape_html(cell);
  const std::size_t bracket = html.find(" [");
  return bracket == std::string::npos ? html : html.replace(bracket, 1, "<br>");
}

bool is_text(const std::string& column) { return column == "note" || column == "learning rate"; }

std::string table_section(const Report& report, const std::vector<Row>& rows) {
  const auto names = column_names(report);
  std::string html = "<div class=\"scroll\"><table id=\"results\"><thead><tr>";
  for (const auto& name : names)
    html += concat("<th", is_text(name) ? " class=\"text\"" : "", ">", escape_html(name), "</th>");
  html += "</tr></thead><tbody>";
  for (const Row& row : rows) {
    html += row.is_baseline ? "<tr class=\"baseline\">" : "<tr>";
    const auto cells = cells_of(row);
    for (std::size_t i = 0; i < cells.size(); ++i)
      html += concat("<td", is_text(names[i]) ? " class=\"text\"" : "", ">", cell_html(cells[i]), "</td>");
    html += "</tr>";
  }
  html += "</tbody></table></div>";
  return html + "<p class=\"soft\">" +
         escape_html(concat("Perplexity: mean ± standard error over seeds, on ", report.measured_on,
                            ". Difference: mean over the seeds that both have, [95 % confidence interval "
                            "by Student's t], n seeds. Memory: papers: weights and optimizer states by the "
                            "papers' arithmetic (bf16, NF4 at 0.5625 bytes, no gradients and "
                            "activations); plan: all that one rank allocates; peak: resident, measured.")) +
         "</p>";
}

std::string seeds_section(const Report& report) {
  std::string html =
      "<details><summary>Perplexity of each seed</summary><div class=\"scroll\"><table "
      "id=\"seeds\"><thead><tr><th>variant</th><th>seed</th>"
      "<th>perplexity</th><th>published convention</th><th class=\"text\">folder</th></tr></thead><tbody>";
  for (const VariantReport& variant : report.variants) {
    for (const RunResult& run : variant.runs) {
      const auto ppl = run.evaluated ? run.evaluated : run.own;
      if (!ppl) continue;
      html += concat("<tr><td>", escape_html(variant.name), "</td><td>", run.seed, "</td><td>",
                     fixed(ppl->ppl, 4), "</td><td>", fixed(ppl->published_convention, 4),
                     "</td><td class=\"text\">", escape_html(run.folder.string()), "</td></tr>");
    }
  }
  return html + "</tbody></table></div></details>";
}

std::string differences_section(const Report& report, const std::vector<Row>& rows) {
  std::string list;
  for (const Row& row : rows) {
    if (!row.differs.empty())
      list += "<dt>" + escape_html(row.variant) + "</dt><dd>" + escape_html(row.differs) + "</dd>";
  }
  return list.empty()
             ? ""
             : "<h2>What differs from " + escape_html(report.baseline) + "</h2><dl>" + list + "</dl>";
}

std::string failures_section(const Report& report) {
  if (report.failures.empty()) return "";
  std::string html =
      "<h2>Runs that failed</h2><div class=\"scroll\"><table id=\"failures\"><thead><tr><th>run</th><th>exit "
      "code</th><th class=\"text\">reason</th>"
      "<th class=\"text\">log</th></tr></thead><tbody>";
  for (const FailedRun& failed : report.failures) {
    html += concat("<tr><td>", escape_html(failed.run), "</td><td>", failed.failure.exit_code,
                   "</td><td class=\"text\">", escape_html(failed.failure.reason), "</td><td class=\"text\">",
                   escape_html(failed.failure.log.string()), "</td></tr>");
  }
  return html + "</tbody></table></div>";
}

std::string facts_section(const Report& report) {
  std::string html = "<h2>What was run</h2><dl>";
  for (const auto& [name, value] : report.facts)
    html += "<dt>" + escape_html(name) + "</dt><dd>" + escape_html(value) + "</dd>";
  html += "</dl>";
  if (!report.sweep_text.empty())
    html += "<details><summary>The sweep as written</summary><pre>" + escape_html(report.sweep_text) +
            "</pre></details>";
  for (const VariantReport& variant : report.variants) {
    if (variant.recipe.empty()) continue;
    html += "<details><summary>Recipe of " + escape_html(variant.name) + "</summary><pre>" +
            escape_html(variant.recipe) + "</pre></details>";
  }
  return html;
}

}  // namespace

std::string to_html(const Report& report) {
  const auto rows = make_rows(report);
  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\">";
  html +=
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\"><meta name=\"color-scheme\" content=\"light dark\">";
  html += "<title>" + escape_html(report.title) + "</title><style>" + kStyle + "</style></head><body><h1>" +
          escape_html(report.title) + "</h1>";
  if (!report.remarks.empty()) {
    html += "<ul class=\"remarks\">";
    for (const auto& remark : report.remarks) html += "<li>" + escape_html(remark) + "</li>";
    html += "</ul>";
  }
  html += table_section(report, rows) + seeds_section(report);
  html += chart_section(
      report, {"Training loss", "step", "loss, nats a token", ChartScale::linear, ChartMarks::line, {}},
      &RunResult::losses, "Mean over seeds; the band spans the least and the greatest.");
  html += chart_section(report,
                        {"Perplexity during training",
                         "step",
                         "perplexity (log scale)",
                         ChartScale::log,
                         ChartMarks::points,
                         {}},
                        &RunResult::evaluations,
                        "On " + report.curves_on + "; mean over seeds, with the least and the greatest.");
  html += differences_section(report, rows) + failures_section(report) + facts_section(report);
  return html + "</body></html>\n";
}

}  // namespace kumiko::tools
