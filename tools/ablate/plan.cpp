// SPDX-License-Identifier: Apache-2.0
#include "tools/ablate/plan.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "framework/core/error.hpp"
#include "framework/train/memory_plan.hpp"
#include "framework/train/recipe_diff.hpp"
#include "tools/ablate/merge.hpp"
#include "tools/assemble.hpp"
#include "tools/auto_prepare.hpp"

namespace kumiko::tools {
namespace {

struct Resolved {
  std::string recipe;
  data::DataOptions data;
  LrKind schedule = LrKind::constant;
  std::int64_t plan_bytes = 0;
};

std::string flow_list(const std::vector<std::string>& patterns) {
  std::string text;
  for (const auto& pattern : patterns) text += (text.empty() ? "" : ", ") + quote_scalar(pattern, false);
  return "[" + text + "]";
}

// The shards of data.prepare's third split, as it names them.
std::vector<std::string> selection_patterns(const Sweep& sweep, const data::DataOptions& data) {
  if (!sweep.selection.empty()) return {sweep.selection};
  return {(std::filesystem::path(data.train.front()).parent_path() / "select-*.h5").string()};
}

Resolved resolve(ConfigTree tree, const std::string& origin, const Vocabulary& vocabulary) {
  const ConfigNode node = ConfigNode::from_tree(std::move(tree), origin);
  Recipe recipe = Recipe::parse(node);
  const auto prepare = AutoPrepare::parse(node.child("data"));
  recipe.validate(1);
  constexpr std::int64_t kUnknown = 1;
  const std::int64_t known = vocabulary(node.child("data"));
  const std::int64_t ids = known > 0                     ? known
                           : prepare                     ? prepare->vocab_size
                           : recipe.model.vocab_size > 0 ? kUnknown
                                                         : 32000;
  const Assembly assembly(std::move(recipe), ids, 0);
  const Recipe& options = assembly.recipe;
  const std::int64_t micro = options.train.micro_batch_size.value_or(
      automatic_micro_batch(options.train.global_batch_size, 1, options.data.sequence_length));
  const MemoryPlan plan =
      plan_memory(options.model, *assembly.method, options.train, micro, options.data.sequence_length);
  return {node.to_yaml(), options.data, options.lr_schedule.kind, plan.total()};
}

class Planner {
 public:
  Planner(const Sweep& sweep, const Vocabulary& vocabulary, std::int64_t threads)
      : sweep_(sweep), vocabulary_(vocabulary), threads_(threads), chooses_lr_(sweep.has_lr_sweep()) {}

  PlannedVariant plan(const Variant& variant) {
    PlannedVariant result;
    result.variant = &variant;
    try {
      for (const LrPoint& point : variant.points) {
        for (const std::int64_t seed : sweep_.seeds) add_run(result, point, seed);
      }
    } catch (const UsageError& error) {
      throw UsageError(concat(error.what(), " (variant '", variant.name, "', ", variant.place.text(), ")"));
    }
    return result;
  }

 private:
  void add_run(PlannedVariant& result, const LrPoint& point, std::int64_t seed) {
    const Variant& variant = *result.variant;
    PlannedRun run{variant.name, point.name, seed,
                   sweep_.output_dir / "runs" / variant.name / point.name / concat("seed-", seed), ""};
    ConfigTree tree = variant.recipe;
    apply_point(tree, variant.lr_sweep, point);
    apply_override(tree, concat("train.seed=", seed));
    apply_override(tree, "output_dir=" + quote_scalar(run.folder.string(), false));
    if (find_value(tree, "train.threads") == nullptr)
      apply_override(tree, concat("train.threads=", threads_));
    if (result.runs.empty()) {
      const Resolved first = resolve(tree, sweep_.file.string(), vocabulary_);
      result.validation = first.data.validation;
      result.selection = selection_patterns(sweep_, first.data);
      result.recipe = first.recipe;
      if (result.validation.empty()) {
        throw UsageError(
            concat(variant.place.text(),
                   ": data.validation names no shards; without them there is nothing to compare"));
      }
      if (first.schedule == LrKind::plateau && !chooses_lr_) {
        throw UsageError(
            concat(variant.place.text(), ": lr_schedule.kind plateau lowers the rate by what it sees on data.validation, on which "
                   "the table is reported; take another kind, or give an lr_sweep: then it sees the selection shards"));
      }
    }
    if (chooses_lr_) apply_override(tree, "data.validation=" + flow_list(result.selection));
    const Resolved resolved = resolve(std::move(tree), sweep_.file.string(), vocabulary_);
    result.plan_bytes = std::max(result.plan_bytes, resolved.plan_bytes);
    run.recipe = resolved.recipe;
    result.runs.push_back(std::move(run));
  }

  const Sweep& sweep_;
  const Vocabulary& vocabulary_;
  std::int64_t threads_;
  bool chooses_lr_;
};

bool is_own_to_a_run(const std::string& key) {
  return key == "train.seed" || key == "train.threads" || key == "output_dir" || key.starts_with("log.") ||
         key.starts_with("checkpoint.");
}

// Two variants with one recipe compare nothing: a slip of the pen.
void refuse_twins(const Plan& plan) {
  for (std::size_t i = 0; i < plan.variants.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      const Variant& a = *plan.variants[j].variant;
      const Variant& b = *plan.variants[i].variant;
      if (!describe_difference(plan.variants[j].recipe, plan.variants[i].recipe).empty()) continue;
      const bool swept_apart =
          a.points.size() != b.points.size() || a.points.front().name != b.points.front().name;
      KUMIKO_EXPECTS(swept_apart, UsageError, b.place.text(), ": variants '", a.name, "' and '", b.name,
                     "' are the same recipe; remove one or change what they set");
    }
  }
}

}  // namespace

std::size_t Plan::run_count() const {
  std::size_t count = 0;
  for (const auto& variant : variants) count += variant.runs.size();
  return count;
}

Plan make_plan(const Sweep& sweep, const Vocabulary& vocabulary, std::int64_t threads) {
  Plan plan{&sweep, sweep.has_lr_sweep(), {}};
  Planner planner(sweep, vocabulary, threads);
  for (const Variant& variant : sweep.variants) plan.variants.push_back(planner.plan(variant));
  refuse_twins(plan);
  return plan;
}

std::string describe_difference(const std::string& baseline, const std::string& other) {
  std::string text;
  for (const auto& difference : compare_recipes(baseline, other)) {
    if (is_own_to_a_run(difference.key)) continue;
    text += concat(text.empty() ? "" : ", ", difference.key, " ",
                   difference.after.empty() ? "absent" : difference.after);
  }
  return text;
}

void check_unchanged(const Plan& plan) {
  for (const auto& variant : plan.variants) {
    for (const PlannedRun& run : variant.runs) {
      const auto file = run.folder / kPlannedRecipe;
      if (!std::filesystem::exists(file)) continue;
      std::ostringstream stored;
      stored << std::ifstream(file, std::ios::binary).rdbuf();
      for (const auto& difference : compare_recipes(stored.str(), run.recipe)) {
        if (is_harmless(difference.key) && difference.key != "eval.tokens") continue;
        const auto folder = run.folder.parent_path().parent_path();
        throw UsageError(concat(variant.variant->place.text(), ": variant '", run.variant,
                                "' has changed since ", run.folder.string(), " was begun: ", difference.key,
                                " was ", difference.before.empty() ? "absent" : difference.before, ", is ",
                                difference.after.empty() ? "absent" : difference.after,
                                "; undo it, give another output_dir, or remove ", folder.string(),
                                " to have the variant run anew; nothing was touched"));
      }
    }
  }
}

}  // namespace kumiko::tools
