// SPDX-License-Identifier: Apache-2.0
// One function a sub-command: declares its options; its callback does the work and throws kumiko errors.
#pragma once

namespace CLI {
class App;
}

namespace kumiko::tools {

void add_train(CLI::App& app);
void add_eval(CLI::App& app);
void add_generate(CLI::App& app);
void add_inspect(CLI::App& app);

}  // namespace kumiko::tools
