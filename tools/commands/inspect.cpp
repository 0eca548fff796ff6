// SPDX-License-Identifier: Apache-2.0
#include <iostream>

#include <CLI/CLI.hpp>

#include "data/shard_reader.hpp"
#include "framework/core/error.hpp"
#include "framework/core/format.hpp"
#include "framework/core/log.hpp"
#include "framework/train/checkpoint.hpp"
#include "tools/commands/commands.hpp"

namespace kumiko::tools {
namespace {

struct InspectFlags {
  std::filesystem::path path;
  bool digest = false;
  bool tensors = false;
};

void inspect_shard(const InspectFlags& flags) {
  const data::ShardReader reader(flags.path);
  const data::ShardInfo& info = reader.info();
  std::cout << "shard: " << flags.path.string() << " (format " << info.version << ", verified)\n"
            << "split: " << info.split << "\n"
            << "documents: " << info.documents << "\n"
            << "tokens: " << info.tokens << "\n"
            << "text bytes: " << info.text_bytes << "\n"
            << "vocabulary: " << info.vocab_size << " ids, end of document " << info.eos_id << "\n"
            << "tokenizer: " << info.tokenizer_digest << "\n"
            << "file: " << format_bytes(info.file_bytes) << "\n"
            << info.content_digest << "\n";
}

void inspect_checkpoint(const InspectFlags& flags) {
  const auto reader = open_checkpoint(flags.path, [](const std::string& reason) { log::warning(reason); });
  const Manifest& manifest = reader->manifest();
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : manifest.tensors) bytes += tensor.bytes;
  std::cout << "checkpoint: " << reader->folder().string() << " (verified)\n"
            << "step: " << manifest.step << "\n"
            << "saved: " << manifest.created << " by " << manifest.meta.code_version << " on " << manifest.meta.world_size
            << (manifest.meta.world_size == 1 ? " rank\n" : " ranks\n")
            << "state: " << manifest.tensors.size() << " tensors, " << format_bytes(bytes) << ", in " << manifest.files.size() << " files\n";
  if (flags.tensors) {
    for (const auto& [name, tensor] : manifest.tensors) {
      std::cout << "  " << name << " " << checkpoint_dtype_name(tensor.dtype) << " [";
      for (std::size_t i = 0; i < tensor.shape.size(); ++i) std::cout << (i > 0 ? ", " : "") << tensor.shape[i];
      std::cout << "]\n";
    }
  }
  if (flags.digest) std::cout << content_digest(manifest) << "\n";
}

void inspect(const InspectFlags& flags) {
  KUMIKO_EXPECTS(std::filesystem::exists(flags.path), UsageError, flags.path.string(), ": no such file or folder; name a run folder, a checkpoint folder or a shard");
  if (std::filesystem::is_regular_file(flags.path)) {
    inspect_shard(flags);
  } else {
    inspect_checkpoint(flags);
  }
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = app.add_subcommand("inspect", "verify and describe a run, a checkpoint or a shard");
  command->add_option("path", flags->path, "run folder (its newest checkpoint), checkpoint folder or shard")->required();
  command->add_flag("--digest", flags->digest, "print the content digest of the state as the last line");
  command->add_flag("--tensors", flags->tensors, "list the tensors of a checkpoint");
  command->callback([flags] { inspect(*flags); });
}

}  // namespace kumiko::tools
