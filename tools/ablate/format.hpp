// SPDX-License-Identifier: Apache-2.0
// Cells of the table.
#pragma once

#include <string>

#include "tools/ablate/report.hpp"

namespace kumiko::tools {

std::string fixed(double value, int digits);
std::string perplexity_cell(const Estimate& estimate);  // "25.31 ± 0.12", "25.31"; "–" without a run
std::string difference_cell(const Row& row);            // "+0.42 [0.10, 0.74], n 3"; "baseline"
std::string bytes_cell(std::int64_t bytes);
std::string refresh_cell(const Row& row);  // "1.2 s (3.4 %)"

// The table's columns and each row's cells, for Markdown and HTML.
std::vector<std::string> column_names(const Report& report);
std::vector<std::string> cells_of(const Row& row);

}  // namespace kumiko::tools
