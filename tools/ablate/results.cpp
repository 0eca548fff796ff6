// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/results.hpp"

#include <cmath>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "framework/core/files.hpp"
#include "framework/core/format.hpp"

namespace kumiko::tools {
namespace {

using Json = nlohmann::json;

std::string read_text(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

// An empty object for a file that is absent or no JSON object.
Json read_json(const std::filesystem::path& file) {
  Json object = Json::parse(read_text(file), nullptr, /*allow_exceptions=*/false);
  return object.is_object() ? object : Json::object();
}

// "nan" and "inf" are texts in metrics.jsonl.
std::optional<double> number(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

std::int64_t integer(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
}

std::string text(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::optional<Perplexity> perplexity(const Json& object) {
  const auto ppl = number(object, "validation_perplexity");
  if (!ppl) return std::nullopt;
  return Perplexity{*ppl, number(object, "ppl_published_convention").value_or(*ppl)};
}

// Steps between two logged ones are taken to last as long as the logged ones do; steps with a probe are
// always logged.
struct Times {
  double plain = 0.0, probe = 0.0, beside_probe = 0.0;
  std::int64_t plain_lines = 0, probe_lines = 0, steps = 0;

  void add(const Json& line) {
    const auto seconds = number(line, "step_seconds");
    if (!seconds) return;
    if (const auto part = number(line, "probe_seconds")) {
      probe += *part;
      beside_probe += *seconds - *part;
      ++probe_lines;
    } else {
      plain += *seconds;
      ++plain_lines;
    }
  }
  double total() const {
    const double each = plain_lines > 0 ? plain / static_cast<double>(plain_lines) : 0.0;
    return probe + beside_probe + each * static_cast<double>(steps - probe_lines);
  }
};

void read_metrics(RunResult& result) {
  std::ifstream in(result.folder / "metrics.jsonl", std::ios::binary);
  Times times;
  std::int64_t tokens = 0;
  for (std::string line; std::getline(in, line);) {
    const Json object = Json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("step")) continue;
    times.steps = integer(object, "step");
    if (const auto loss = number(object, "loss")) result.losses.push_back({times.steps, *loss});
    if (const auto ppl = number(object, "eval_ppl")) result.evaluations.push_back({times.steps, *ppl});
    tokens = std::max(tokens, integer(object, "tokens"));
    result.peak_bytes = std::max(result.peak_bytes, integer(object, "peak_memory_bytes"));
    times.add(object);
  }
  const double total = times.total();
  if (total <= 0.0) return;
  result.refresh_seconds = times.probe;
  result.refresh_share = times.probe / total;
  if (tokens > 0) result.tokens_per_s = static_cast<double>(tokens) / total;
}

void read_summary(RunResult& result) {
  const Json summary = read_json(result.folder / "summary.json");
  const auto complete = summary.find("complete");
  result.finished = complete != summary.end() && complete->is_boolean() && complete->get<bool>();
  if (result.finished) result.own = perplexity(summary);
  result.unigram = number(summary, "unigram_perplexity").value_or(0.0);
  result.parameters = integer(summary, "parameters");
  result.trained_parameters = integer(summary, "trained_parameters");
  result.paper_bytes = integer(summary, "paper_bytes");
  result.plan_bytes = integer(summary, "plan_bytes");
  result.peak_bytes = integer(summary, "peak_memory_bytes");
  result.tokens_per_s = number(summary, "tokens_per_s").value_or(0.0);
  result.merges = integer(summary, "merges");
  result.train_digest = text(summary, "train_digest");
  result.validation_digest = text(summary, "validation_digest");
  result.version = text(summary, "version");
  result.build = text(summary, "build");
  result.machine = text(summary, "machine");
  result.finished_at = text(summary, "finished_at");
}

}  // namespace

RunResult read_run(const std::filesystem::path& folder) {
  RunResult result;
  result.folder = folder;
  result.recipe = read_text(folder / "recipe.yaml");
  read_summary(result);
  read_metrics(result);
  const Json evaluation = read_json(folder / "evaluation.json");
  result.evaluated = perplexity(evaluation);
  result.evaluated_on = text(evaluation, "shards");
  result.evaluated_digest = text(evaluation, "digest");
  const Json failure = read_json(folder / "failure.json");
  if (!failure.empty()) {
    result.finished = false;
    result.own.reset();
    result.failure = Failure{static_cast<int>(integer(failure, "exit_code")), text(failure, "reason"),
                             text(failure, "log")};
  }
  return result;
}

void write_failure(const std::filesystem::path& folder, const Failure& failure) {
  const nlohmann::ordered_json object = {
      {"exit_code", failure.exit_code}, {"reason", failure.reason}, {"log", failure.log.string()}};
  write_file_durably(folder / "failure.json",
                     object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void forget_failure(const std::filesystem::path& folder) {
  std::error_code ignored;
  std::filesystem::remove(folder / "failure.json", ignored);
}

void write_evaluation(const std::filesystem::path& folder, const Evaluation& value,
                      const std::string& shards) {
  const nlohmann::ordered_json object = {{"validation_perplexity", value.perplexity.ppl},
                                         {"ppl_published_convention", value.perplexity.published_convention},
                                         {"shards", shards},
                                         {"digest", value.digest}};
  write_file_durably(folder / "evaluation.json",
                     object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

std::optional<Evaluation> parse_evaluation(const std::string& output, std::int64_t step) {
  const std::string lines = "\n" + output;
  const auto text_of = [&](const std::string& key) -> std::string {
    const std::string mark = "\n" + key + ": ";
    const std::size_t at = lines.rfind(mark);
    if (at == std::string::npos) return "";
    const std::size_t begin = at + mark.size();
    return lines.substr(begin, lines.find('\n', begin) - begin);
  };
  const auto value_of = [&](const std::string& key) -> std::optional<double> {
    const auto value = parse_real(text_of(key));
    return value && std::isfinite(*value) ? value : std::nullopt;
  };
  const auto ppl = value_of("validation perplexity");
  const auto published = value_of("ppl_published_convention");
  if (!ppl || !published || parse_integer(text_of("step")) != step) return std::nullopt;
  return Evaluation{{*ppl, *published}, text_of("validation digest")};
}

bool has_diverged(const RunResult& run) { return run.finished && !run.own && !run.evaluated; }

}  // namespace kumiko::tools
