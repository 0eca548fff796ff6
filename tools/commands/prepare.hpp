// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace kumiko::tools {

// Adds `kumiko prepare` to `app`; its callback does the work and throws kumiko errors.
void add_prepare(CLI::App& app);

}  // namespace kumiko::tools
