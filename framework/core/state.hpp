// SPDX-License-Identifier: Apache-2.0
// Named state: what a checkpoint is made of. Names are paths ("optimizer/model.norm.weight/exp_avg").
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace kumiko {

class StateWriter {
 public:
  virtual ~StateWriter() = default;
  // A name is written once; a second time is a bug and throws CheckpointError.
  virtual void tensor(std::string_view name, const at::Tensor& value) = 0;
  virtual void integer(std::string_view name, std::int64_t value) = 0;
  virtual void real(std::string_view name, double value) = 0;
  virtual void text(std::string_view name, std::string_view value) = 0;
};

class StateReader {
 public:
  virtual ~StateReader() = default;
  virtual bool has(std::string_view name) const = 0;
  // Each throws CheckpointError naming what is missing or of another kind. Tensors arrive on the CPU.
  virtual at::Tensor tensor(std::string_view name) const = 0;
  virtual std::int64_t integer(std::string_view name) const = 0;
  virtual double real(std::string_view name) const = 0;
  virtual std::string text(std::string_view name) const = 0;

  // Copies a stored tensor into `destination`, which must have its dtype and sizes.
  void read_into(std::string_view name, at::Tensor& destination) const;
};

// Writes and reads below a prefix: ScopedWriter(out, "optimizer/").
class ScopedWriter final : public StateWriter {
 public:
  ScopedWriter(StateWriter& out, std::string prefix) : out_(out), prefix_(std::move(prefix)) {}
  void tensor(std::string_view name, const at::Tensor& value) override { out_.tensor(path(name), value); }
  void integer(std::string_view name, std::int64_t value) override { out_.integer(path(name), value); }
  void real(std::string_view name, double value) override { out_.real(path(name), value); }
  void text(std::string_view name, std::string_view value) override { out_.text(path(name), value); }

 private:
  std::string path(std::string_view name) const { return prefix_ + std::string(name); }
  StateWriter& out_;
  std::string prefix_;
};

class ScopedReader final : public StateReader {
 public:
  ScopedReader(const StateReader& in, std::string prefix) : in_(in), prefix_(std::move(prefix)) {}
  bool has(std::string_view name) const override { return in_.has(path(name)); }
  at::Tensor tensor(std::string_view name) const override { return in_.tensor(path(name)); }
  std::int64_t integer(std::string_view name) const override { return in_.integer(path(name)); }
  double real(std::string_view name) const override { return in_.real(path(name)); }
  std::string text(std::string_view name) const override { return in_.text(path(name)); }

 private:
  std::string path(std::string_view name) const { return prefix_ + std::string(name); }
  const StateReader& in_;
  std::string prefix_;
};

}  // namespace kumiko
