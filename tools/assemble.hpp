// SPDX-License-Identifier: Apache-2.0
// Puts the parts that a recipe names together: the one place that knows concrete methods, optimizers and models.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "data/tokenizer.hpp"
#include "dist/communicator.hpp"
#include "framework/model/llama.hpp"
#include "framework/model/method.hpp"
#include "framework/train/recipe.hpp"

namespace kumiko::tools {

struct Assembly {
  Recipe recipe;
  OptimizerRegistry optimizers{"optimizer"};
  MethodRegistry methods{"method"};
  std::unique_ptr<RuleFactory> rules;
  std::unique_ptr<Method> method;
  std::unique_ptr<Llama> model;      // none before make_model()

  // Builds and validates the method and refuses unread keys. `vocab_size` and `eos_id` are the data's; a recipe's own
  // vocab_size must hold them.
  Assembly(Recipe parsed, std::int64_t vocab_size, std::int32_t eos_id);
  void make_model();

 private:
  std::int32_t eos_id_;
};

// Threads of LibTorch: the recipe's, or this machine's cores over the ranks on it.
void set_threads(const TrainOptions& options);

// The ranks of mpirun, or this process alone.
std::unique_ptr<dist::Communicator> make_communicator(const dist::CommOptions& options);

// A model as a run folder or checkpoint has it, for commands that do not train.
struct LoadedModel {
  std::unique_ptr<Assembly> assembly;
  data::Tokenizer tokenizer;
  std::filesystem::path folder;      // the checkpoint read
  std::int64_t step = 0;
};
// Verifies the checkpoint first. Its recipe may be changed by overrides ("data.validation=...").
LoadedModel load_model(const std::filesystem::path& path, std::span<const std::string> overrides = {});

}  // namespace kumiko::tools
