// SPDX-License-Identifier: Apache-2.0
#include "tools/commands/doctor.hpp"

#include <filesystem>

#include <CLI/CLI.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "framework/core/error.hpp"

namespace kumiko::tools {
namespace {

using testing::HasSubstr;
using testing::Not;

MachineFacts healthy() {
  return {.kumiko_version = "0.1.0",
          .build_digest = "0123456789abcdef",
          .torch_version = "2.11.0",
          .cpu_model = "Example 9000",
          .cpu_flags = {"sse2", "avx2", "avx512f", "amx_bf16"},
          .cores = 8,
          .memory_bytes = std::int64_t{32} << 30,
          .available_memory_bytes = std::int64_t{24} << 30,
          .mpirun = "mpirun (Open MPI) 4.1.4",
          .interfaces = {{"eth0", "192.168.1.0/24"}},
          .folder = "runs",
          .free_disk_bytes = std::int64_t{100} << 30,
          .write_seconds = 0.01};
}

Finding finding(const MachineFacts& facts, const std::string& subject) {
  for (const Finding& one : diagnose(facts)) {
    if (one.subject == subject) return one;
  }
  ADD_FAILURE() << "no finding on " << subject;
  return {};
}

TEST(Doctor, HasNothingToSayAboutAHealthyComputer) {
  for (const Finding& one : diagnose(healthy()))
    EXPECT_EQ(one.health, Health::ok) << one.subject << ": " << one.text;
  const std::string text = to_text(diagnose(healthy()));
  EXPECT_THAT(text,
              HasSubstr("ok       kumiko   0.1.0, build 0123456789ab, LibTorch 2.11.0, without CUDA\n"));
  EXPECT_THAT(text, HasSubstr("ok       cpu      Example 9000, 8 cores, AVX2, AVX-512, AMX bf16\n"));
  EXPECT_THAT(text, HasSubstr("24 GiB of 32 GiB available"));
}

TEST(Doctor, NotesWhatIsSlowOrSmall) {
  MachineFacts facts = healthy();
  facts.cpu_flags = {"sse2"};
  facts.available_memory_bytes = std::int64_t{1} << 30;
  facts.free_disk_bytes = std::int64_t{1} << 30;
  facts.write_seconds = 3.0;
  for (const char* subject : {"cpu", "memory", "disk", "writing"})
    EXPECT_EQ(finding(facts, subject).health, Health::note) << subject;
  EXPECT_THAT(finding(facts, "memory").text, HasSubstr("--dry-run"));
}

TEST(Doctor, CallsWhatStopsARunAProblem) {
  MachineFacts facts = healthy();
  facts.free_disk_bytes = 1 << 20;
  facts.write_error = "cannot write runs/x: permission denied";
  EXPECT_EQ(finding(facts, "disk").health, Health::problem);
  EXPECT_EQ(finding(facts, "writing").health, Health::problem);
  EXPECT_THAT(finding(facts, "writing").text, HasSubstr("permission denied; choose a folder"));
  facts.free_disk_bytes.reset();
  EXPECT_EQ(finding(facts, "disk").health, Health::note);
}

TEST(Doctor, NotesAnNvidiaGpuThatThisBuildDoesNotUse) {
  MachineFacts facts = healthy();
  facts.nvidia_driver = "550.54.15";
  EXPECT_EQ(finding(facts, "gpu").health, Health::note);
  EXPECT_THAT(finding(facts, "gpu").text, HasSubstr("550.54.15, but this build has no CUDA"));
  facts.has_cuda = true;
  EXPECT_EQ(finding(facts, "gpu").health, Health::ok);
}

TEST(Doctor, AnswersWhatMpirunRefuses) {
  MachineFacts facts = healthy();
  facts.is_root = true;
  EXPECT_EQ(finding(facts, "root").health, Health::note);
  EXPECT_THAT(finding(facts, "root").text,
              HasSubstr("OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"));
  facts.mpirun_may_run_as_root = true;
  EXPECT_EQ(finding(facts, "root").health, Health::ok);
  EXPECT_THAT(finding(facts, "slots").text, HasSubstr("--oversubscribe"));
  facts.mpirun.reset();
  EXPECT_THAT(finding(facts, "mpirun").text, HasSubstr("openmpi-bin"));
  facts.mpirun = "HYDRA build details:";
  EXPECT_EQ(finding(facts, "mpirun").health, Health::note);
}

TEST(Doctor, AdvisesTheRealOneOfSeveralInterfaces) {
  MachineFacts facts = healthy();
  facts.interfaces = {{"docker0", "172.17.0.0/16"}, {"enp3s0", "192.168.1.0/24"}};
  EXPECT_EQ(finding(facts, "network").health, Health::note);
  EXPECT_THAT(finding(facts, "network").text,
              HasSubstr("--mca btl_tcp_if_include 192.168.1.0/24 --mca oob_tcp_if_include 192.168.1.0/24"));
  facts.interfaces.clear();
  EXPECT_EQ(finding(facts, "network").health, Health::ok);
}

TEST(FieldOf, FindsTheWholeKey) {
  const std::string text =
      "model\t\t: 167\nmodel name\t: Example 9000\nflags : avx2 fma\nMemTotal:       24 kB\nempty :\n";
  EXPECT_EQ(field_of(text, "model"), "167");
  EXPECT_EQ(field_of(text, "model name"), "Example 9000");
  EXPECT_EQ(field_of(text, "MemTotal"), "24 kB");
  EXPECT_EQ(field_of(text, "empty"), "");
  EXPECT_EQ(field_of(text, "mod"), "");
}

class DoctorFolder : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  const std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) / ("kumiko_doctor_test_" + std::to_string(getpid()));
};

TEST_F(DoctorFolder, LooksAtThisComputerAndLeavesNothingBehind) {
  const MachineFacts facts = look_at_machine(folder_);
  EXPECT_GE(facts.cores, 1);
  EXPECT_GT(facts.memory_bytes, facts.available_memory_bytes);
  EXPECT_GT(facts.available_memory_bytes, 0);
  EXPECT_GT(facts.free_disk_bytes.value_or(0), 0);
  EXPECT_FALSE(facts.cpu_flags.empty());
  EXPECT_FALSE(facts.write_error.has_value());
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(DoctorFolder, CommandFailsWithUsageWhereItCannotWrite) {
  CLI::App app;
  add_doctor(app);
  testing::internal::CaptureStdout();
  try {
    app.parse("doctor --folder " + (folder_ / "missing").string());
    ADD_FAILURE() << "no error";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("on this computer, listed above"));
  }
  const std::string report = testing::internal::GetCapturedStdout();
  EXPECT_THAT(report, HasSubstr("problem  writing"));
  EXPECT_THAT(report, HasSubstr("missing"));
  EXPECT_THAT(report, Not(HasSubstr("problem  disk")));
}

}  // namespace
}  // namespace kumiko::tools
