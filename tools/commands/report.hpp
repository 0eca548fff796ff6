// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace kumiko::tools {

// `kumiko report RUN... [--output DIR] [--baseline NAME]`: the table and page of 'kumiko ablate' for any run
// folders.
void add_report(CLI::App& app);

}  // namespace kumiko::tools
