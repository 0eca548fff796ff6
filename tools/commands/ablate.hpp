// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace kumiko::tools {

// `kumiko ablate SWEEP [a.b=value ...] [-j N] [--dry-run]`. Its exit code is that of the first run that
// failed.
void add_ablate(CLI::App& app);

}  // namespace kumiko::tools
