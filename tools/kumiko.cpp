// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <c10/util/Exception.h>

#include "framework/core/build_info.hpp"
#include "framework/core/error.hpp"
#include "framework/core/log.hpp"
#include "framework/core/memory_counter.hpp"
#include "framework/core/words.hpp"
#include "tools/commands/ablate.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/doctor.hpp"
#include "tools/commands/prepare.hpp"
#include "tools/commands/report.hpp"
#include "tools/commands/tokenizer.hpp"

namespace {

int fail(kumiko::ExitCode code, const std::string& message) {
  kumiko::log::error(message);
  return static_cast<int>(code);
}

// What was wrong with the command line and where its help is.
std::string usage_problem(const CLI::App& root, const CLI::ParseError& error, int argc, char** argv) {
  const CLI::App* command = &root;
  std::string name = root.get_name();
  int next = 1;   // the word behind the sub-commands
  for (; !command->get_subcommands().empty(); ++next) {
    command = command->get_subcommands().front();
    name += " " + command->get_name();
  }
  std::vector<std::string> known;
  for (const CLI::App* one : command->get_subcommands([](const CLI::App*) { return true; })) known.push_back(one->get_name());
  std::string what = error.what();
  if (!known.empty() && next < argc) {
    const std::string word = argv[next];
    const auto near = kumiko::nearest_word(word, known);
    what = kumiko::concat("unknown command '", word, "'", near ? ", did you mean '" + *near + "'" : "; known: " + kumiko::join_words(known));
  } else if (!known.empty()) {
    what = "needed a command: " + kumiko::join_words(known);
  }
  return kumiko::concat(what, "; see ", name, " --help");
}

// Threads that wait for each other by spinning starve one another as soon as anything else runs on the machine: steps were seen
// to take ten times as long. LibTorch's libgomp reads its environment while it is loaded, before any code of ours, so the
// process starts itself once more.
void wait_without_spinning(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  ::setenv("GOMP_SPINCOUNT", "1000", /*overwrite=*/1);
  std::error_code unknown;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", unknown);
  if (!unknown) ::execv(self.c_str(), argv);
}

// Several ranks that fail alike before they can talk: one of them says so.
bool is_silent_rank() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  return rank != nullptr && std::string(rank) != "0";
}

}  // namespace

int main(int argc, char** argv) {
  wait_without_spinning(argv);
  kumiko::memory_counter::install();
  CLI::App app{"kumiko " + kumiko::kumiko_version() + ": pretrains language models in 4 bits on hardware you own", "kumiko"};
  app.set_version_flag("--version", kumiko::kumiko_version());
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);
  app.option_defaults()->always_capture_default();
  kumiko::tools::add_train(app);
  kumiko::tools::add_prepare(app);
  kumiko::tools::add_tokenizer(app);
  kumiko::tools::add_eval(app);
  kumiko::tools::add_generate(app);
  kumiko::tools::add_inspect(app);
  kumiko::tools::add_ablate(app);
  kumiko::tools::add_report(app);
  kumiko::tools::add_doctor(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);   // --help, --version
    if (is_silent_rank()) return static_cast<int>(kumiko::ExitCode::usage);
    return fail(kumiko::ExitCode::usage, usage_problem(app, error, argc, argv));
  } catch (const kumiko::Error& error) {
    return is_silent_rank() ? static_cast<int>(error.code()) : fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(kumiko::ExitCode::out_of_memory, "out of memory; see 'kumiko train RECIPE --dry-run' for what the run needs");
  } catch (const c10::Error& error) {
    return fail(kumiko::ExitCode::internal, std::string("internal error: ") + error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(kumiko::ExitCode::internal, std::string("internal error: ") + error.what());
  }
}
