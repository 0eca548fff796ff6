// SPDX-License-Identifier: Apache-2.0
// What a run left in its folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tools/ablate/child.hpp"

namespace kumiko::tools {

struct CurvePoint {
  std::int64_t step = 0;
  double value = 0.0;
};

struct Perplexity {
  double ppl = 0.0;
  double published_convention = 0.0;
};

// What 'kumiko eval' measured.
struct Evaluation {
  Perplexity perplexity;
  std::string digest;  // of the shards' content
};

// Numbers that a run did not report are empty or 0.
struct RunResult {
  std::filesystem::path folder;
  std::int64_t seed = 0;
  std::string recipe;                   // as the run resolved it
  bool finished = false;                // all steps are taken and kept, summary.json is written, nothing failed since
  std::optional<Failure> failure;       // of its last start
  std::optional<Perplexity> own;        // at the end, on the run's data.validation
  std::optional<Perplexity> evaluated;  // by 'kumiko eval' afterwards, on the shards of `evaluated_on`
  std::string evaluated_on, evaluated_digest;
  std::string train_digest, validation_digest;  // of the content of the run's own shards
  double unigram = 0.0;  // perplexity of guessing by how often each token occurs
  std::int64_t parameters = 0, trained_parameters = 0;
  std::int64_t paper_bytes = 0, plan_bytes = 0, peak_bytes = 0;
  double tokens_per_s = 0.0;              // of the time in steps, over all starts of the run
  std::optional<double> refresh_seconds;  // in probe passes, over all starts of the run
  std::optional<double> refresh_share;    // of the time in steps
  std::int64_t merges = 0;
  std::string version, build, machine, finished_at;  // UTC
  std::vector<CurvePoint> losses;                    // training loss of logged steps
  std::vector<CurvePoint> evaluations;               // perplexity
};

// Reads summary.json, metrics.jsonl, recipe.yaml, failure.json and evaluation.json; what is absent or damaged
// stays empty.
RunResult read_run(const std::filesystem::path& folder);

// Durable; throw FileError.
void write_failure(const std::filesystem::path& folder, const Failure& failure);
void forget_failure(const std::filesystem::path& folder);
void write_evaluation(const std::filesystem::path& folder, const Evaluation& value,
                      const std::string& shards);

// What 'kumiko eval' printed; nothing when a perplexity is absent or not finite, or was measured after another step than
// `step`.
std::optional<Evaluation> parse_evaluation(const std::string& output, std::int64_t step);

// The run's number at the end is finite: what is finished without one has diverged.
bool has_diverged(const RunResult& run);

}  // namespace kumiko::tools
