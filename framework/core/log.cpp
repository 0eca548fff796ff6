// SPDX-License-Identifier: Apache-2.0
#include "framework/core/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "framework/core/error.hpp"

namespace kumiko::log {
namespace {

int g_rank = 0;
int g_size = 1;

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = spdlog::stderr_logger_mt("kumiko");
    made->set_pattern("%v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}

std::string origin() { return g_size > 1 ? concat(" [rank ", g_rank, "]") : std::string(); }

void write(spdlog::level::level_enum level, const std::string& line) {
  logger().log(level, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace

void set_rank(int rank, int size) {
  g_rank = rank;
  g_size = size;
}

void info(const std::string& message) {
  if (g_rank == 0) write(spdlog::level::info, message);
}

void warning(const std::string& message) { write(spdlog::level::warn, "kumiko: warning" + origin() + ": " + message); }

void error(const std::string& message) { write(spdlog::level::err, "kumiko: error" + origin() + ": " + message); }

}  // namespace kumiko::log
