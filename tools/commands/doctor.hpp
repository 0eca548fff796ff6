// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "tools/machine_facts.hpp"

namespace CLI {
class App;
}

namespace kumiko::tools {

enum class Health { ok, note, problem };  // a note may matter later, a problem stops a run

struct Finding {
  Health health = Health::ok;
  std::string subject;
  std::string text;  // what is so, and what to do about it
};

std::vector<Finding> diagnose(const MachineFacts& facts);

// One line a finding: "note     root         running as root: ...".
std::string to_text(const std::vector<Finding>& findings);

// `kumiko doctor [--folder DIR]`. Throws UsageError after the report when something is a problem.
void add_doctor(CLI::App& app);

}  // namespace kumiko::tools
