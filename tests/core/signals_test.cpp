// SPDX-License-Identifier: Apache-2.0
#include "framework/core/signals.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>

namespace kumiko {
namespace {

struct Ended {
  int status;
  std::string stderr_text;
};

// Runs `body` in a child, whose exit code is the body's result: signal state belongs to a process.
Ended in_child(const std::function<int()>& body) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    _exit(body());
  }
  close(ends[1]);
  std::string text;
  char buffer[256];
  for (ssize_t count = 0; (count = read(ends[0], buffer, sizeof(buffer))) > 0;)
    text.append(buffer, static_cast<std::size_t>(count));
  close(ends[0]);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return {status, text};
}

int exit_code(const Ended& ended) {
  return WIFEXITED(ended.status) ? WEXITSTATUS(ended.status) : -WTERMSIG(ended.status);
}

// 1 stop, 2 checkpoint, 0 neither.
int asked() {
  return (StopSignals::stop_requested() ? 1 : 0) + (StopSignals::checkpoint_requested() ? 2 : 0);
}

int asked_after(std::initializer_list<int> signals) {
  return exit_code(in_child([&] {
    StopSignals::install();
    for (const int signal : signals) raise(signal);
    return asked();
  }));
}

TEST(StopSignals, AskForNothingAtFirst) { EXPECT_EQ(asked_after({}), 0); }

TEST(StopSignals, Usr1AsksForACheckpoint) {
  EXPECT_EQ(asked_after({SIGUSR1}), 2);
  EXPECT_EQ(asked_after({SIGUSR1, SIGUSR1, SIGUSR1}), 2);
}

TEST(StopSignals, Usr2AsksForAStop) {
  EXPECT_EQ(asked_after({SIGUSR2}), 1);
  EXPECT_EQ(asked_after({SIGUSR2, SIGUSR2}), 1);
  EXPECT_EQ(asked_after({SIGUSR1, SIGUSR2}), 3);
}

TEST(StopSignals, FirstInterruptAsksForAStop) {
  EXPECT_EQ(asked_after({SIGINT}), 1);
  EXPECT_EQ(asked_after({SIGTERM}), 1);
  EXPECT_EQ(asked_after({SIGUSR2, SIGINT}), 1);
  EXPECT_EQ(asked_after({SIGHUP, SIGHUP}), 1);
}

TEST(StopSignals, SecondInterruptStopsAtOnce) {
  for (const auto& [first, second] :
       {std::pair{SIGINT, SIGINT}, std::pair{SIGTERM, SIGTERM}, std::pair{SIGTERM, SIGINT}}) {
    const Ended ended = in_child([&, first = first, second = second] {
      StopSignals::install();
      raise(first);
      raise(second);
      return asked();
    });

    EXPECT_EQ(exit_code(ended), 130);
    EXPECT_EQ(ended.stderr_text, "kumiko: stopped at once; the last saved checkpoint stands\n");
  }
}

TEST(StopSignals, CheckpointRequestIsClearedAlone) {
  const Ended ended = in_child([] {
    StopSignals::install();
    raise(SIGUSR1);
    raise(SIGUSR2);
    StopSignals::clear_checkpoint_request();
    return asked();
  });

  EXPECT_EQ(exit_code(ended), 1);
}

TEST(StopSignals, InstallTwiceKeepsRequests) {
  const Ended ended = in_child([] {
    StopSignals::install();
    raise(SIGTERM);
    StopSignals::install();
    return asked();
  });

  EXPECT_EQ(exit_code(ended), 1);
}

TEST(StopSignals, LeaveIgnoredInterruptsIgnored) {
  const Ended ended = in_child([] {
    std::signal(SIGHUP, SIG_IGN);
    std::signal(SIGINT, SIG_IGN);
    StopSignals::install();
    raise(SIGHUP);
    raise(SIGINT);
    raise(SIGINT);
    return asked();
  });

  EXPECT_EQ(exit_code(ended), 0);
}

TEST(StopSignals, RestartInterruptedReads) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Ended ended = in_child([&] {
    StopSignals::install();
    const pid_t parent = getpid();
    if (fork() == 0) {
      usleep(100000);
      kill(parent, SIGUSR2);
      usleep(100000);
      const ssize_t written = write(ends[1], "x", 1);
      _exit(written == 1 ? 0 : 1);
    }
    char byte = 0;
    const ssize_t count = read(ends[0], &byte, 1);
    return count == 1 && byte == 'x' ? asked() : 99;
  });
  close(ends[0]);
  close(ends[1]);

  EXPECT_EQ(exit_code(ended), 1);
}

}  // namespace
}  // namespace kumiko
