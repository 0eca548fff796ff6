// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace kumiko::tools {

// Adds `kumiko tokenizer train` and `kumiko tokenizer export` to `app`; their callbacks do the work and throw
// kumiko errors.
void add_tokenizer(CLI::App& app);

}  // namespace kumiko::tools
