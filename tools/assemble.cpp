// SPDX-License-Identifier: Apache-2.0
#include "tools/assemble.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include <ATen/Parallel.h>

#include "framework/core/error.hpp"
#include "framework/core/log.hpp"
#include "framework/core/words.hpp"
#include "framework/train/checkpoint.hpp"
#include "framework/train/run.hpp"
#include "lowrank/methods/builtin.hpp"
#include "tools/auto_prepare.hpp"

namespace kumiko::tools {
namespace {

// Cores this process may run on, over the ranks that share them.
std::int64_t automatic_threads() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const std::int64_t online = std::max<long>(1, sysconf(_SC_NPROCESSORS_ONLN));
  const std::int64_t usable = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : online;
  if (usable < online) return usable;   // the launcher has bound each rank to its share
  const char* local_ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  const std::int64_t ranks = local_ranks != nullptr ? std::max(1L, std::atol(local_ranks)) : 1;
  return std::max<std::int64_t>(1, online / ranks);
}

std::string unknown(std::string_view kind, const std::string& word, const std::vector<std::string>& known) {
  const auto near = nearest_word(word, known);
  return concat("unknown ", kind, " '", word, "'; ", near ? "did you mean '" + *near + "'? " : "", "known: ", join_words(known));
}

}  // namespace

Assembly::Assembly(Recipe parsed, std::int64_t vocab_size, std::int32_t eos_id) : recipe(std::move(parsed)), eos_id_(eos_id) {
  lowrank::register_builtin_methods(methods);
  register_builtin_optimizers(optimizers);
  if (recipe.model.vocab_size == 0) {
    recipe.model.vocab_size = vocab_size;
    recipe.node.child("model").resolve("vocab_size", concat(vocab_size));
  }
  if (recipe.model.vocab_size < vocab_size) {
    recipe.node.child("model").fail("vocab_size", concat(recipe.model.vocab_size, " is below the ", vocab_size,
                                                         " ids of the data's tokenizer; raise it, or leave it out to take theirs"));
  }
  if (!methods.has(recipe.method_name)) recipe.method.fail("name", unknown("method", recipe.method_name, methods.names()));
  if (!optimizers.has(recipe.optimizer.name)) {
    recipe.node.child("optimizer").fail("name", unknown("optimizer", recipe.optimizer.name, optimizers.names()));
  }
  rules = optimizers.make(recipe.optimizer.name, recipe.node.child("optimizer"));
  method = methods.make(recipe.method_name, MethodContext{recipe.method, *rules, recipe.model, recipe.train.param_dtype, at::kCPU,
                                                          recipe.train.seed, recipe.train.steps});
  recipe.node.finish();
  method->validate(recipe.model);
  MemoryPlan plan;
  method->plan(recipe.model, plan);   // the optimizer's rules refuse what they cannot do for a parameter
}

void Assembly::make_model() {
  ComputeOptions compute;
  compute.compute_dtype = recipe.train.compute_dtype();
  compute.param_dtype = recipe.train.param_dtype;
  compute.seed = recipe.train.seed;
  compute.recompute = recipe.train.recompute;
  compute.document_end = recipe.data.document_mask ? eos_id_ : -1;
  model = std::make_unique<Llama>(recipe.model, compute, *method);
}

void set_threads(const TrainOptions& options) { at::set_num_threads(static_cast<int>(options.threads.value_or(automatic_threads()))); }

std::unique_ptr<dist::Communicator> make_communicator(const dist::CommOptions& options) {
  auto comm = dist::launched_by_mpi() ? dist::make_mpi(options) : dist::make_solo();
  log::set_rank(comm->rank(), comm->size());
  return comm;
}

LoadedModel load_model(const std::filesystem::path& path, std::span<const std::string> overrides) {
  const auto reader = open_checkpoint(path, [](const std::string& reason) { log::warning(reason); });
  const ConfigNode node = ConfigNode::parse_text(reader->manifest().meta.recipe, (reader->folder() / "recipe").string(), overrides);
  AutoPrepare::parse(node.child("data"));   // its keys are known here too
  auto tokenizer = data::Tokenizer::from_bytes(tokenizer_bytes(*reader), reader->folder().string());
  auto assembly = std::make_unique<Assembly>(Recipe::parse(node), tokenizer.vocab_size(), tokenizer.eos_id());
  set_threads(assembly->recipe.train);
  assembly->make_model();
  assembly->model->load(ScopedReader(*reader, "model/"));
  return {std::move(assembly), std::move(tokenizer), reader->folder(), reader->manifest().step};
}

}  // namespace kumiko::tools
