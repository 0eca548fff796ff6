// SPDX-License-Identifier: Apache-2.0
// Errors that a user, a file, a peer or the machine can cause. Their types are API: each maps to one exit code of the
// command line. What only a bug of ours can cause is TORCH_INTERNAL_ASSERT.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace kumiko {

// Exit codes of every command.
enum class ExitCode : int {
  done = 0,
  internal = 1,
  usage = 2,          // usage or recipe, unusable output folder, ranks that disagree
  data = 3,
  checkpoint = 4,
  out_of_memory = 5,
  peer = 6,           // a peer rank failed or hung
  diverged = 7,       // non-finite loss
  interrupted = 130,
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

#define KUMIKO_DEFINE_ERROR(Name, exit_code)                                             \
  class Name : public Error {                                                            \
   public:                                                                               \
    explicit Name(const std::string& message) : Error(ExitCode::exit_code, message) {}   \
  }

KUMIKO_DEFINE_ERROR(UsageError, usage);
KUMIKO_DEFINE_ERROR(NotBuiltError, usage);
KUMIKO_DEFINE_ERROR(ShapeError, internal);
KUMIKO_DEFINE_ERROR(DataError, data);
KUMIKO_DEFINE_ERROR(CheckpointError, checkpoint);
KUMIKO_DEFINE_ERROR(OutOfMemoryError, out_of_memory);
KUMIKO_DEFINE_ERROR(PeerError, peer);
KUMIKO_DEFINE_ERROR(DivergedError, diverged);

// Joins its arguments as operator<< prints them.
template <class... Args>
std::string concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

}  // namespace kumiko

// Throws `Type` with the joined message unless `condition` holds. The condition has no side effect.
#define KUMIKO_EXPECTS(condition, Type, ...)                 \
  do {                                                       \
    if (!(condition)) {                                      \
      throw ::kumiko::Type(::kumiko::concat(__VA_ARGS__));   \
    }                                                        \
  } while (false)
