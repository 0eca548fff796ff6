// SPDX-License-Identifier: Apache-2.0
#include "framework/train/trainer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/train/layer_updates.hpp"

namespace kumiko {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

}  // namespace

Trainer::Trainer(const TrainOptions& options, Parts parts)
    : options_(options), parts_(parts), scaler_(options.precision == Precision::fp16) {}

void Trainer::for_each_micro_batch(std::span<const data::Batch> batches, std::vector<at::Tensor>& sums, const Body& body) const {
  if (!options_.deterministic || batches.size() == 1) {
    for (const auto& batch : batches) body(batch);
    return;
  }
  const std::size_t half = batches.size() / 2;
  for_each_micro_batch(batches.first(half), sums, body);
  std::vector<at::Tensor> left;
  for (auto& sum : sums) {
    left.push_back(sum.clone());
    sum.zero_();
  }
  for_each_micro_batch(batches.subspan(half), sums, body);
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i].add_(left[i]);
}

void Trainer::reduce(std::vector<at::Tensor>& sums) {
  if (parts_.comm.size() == 1) return;
  const dist::Wire wire = options_.deterministic ? dist::Wire::fp32 : parts_.wire;
  std::vector<std::unique_ptr<dist::Work>> pending;
  for (auto& sum : sums) {
    pending.push_back(parts_.comm.all_reduce(sum, dist::ReduceOp::sum, sum.scalar_type() == at::kFloat ? wire : dist::Wire::native));
  }
  for (auto& work : pending) work->wait();
}

void Trainer::probe(const StepPlan& plan, std::span<const data::Batch> batches, StepReport& report) {
  const double scale = scaler_.scale() / static_cast<double>(report.target_tokens);
  for (int pass = 0; pass < plan.probe_passes; ++pass) {
    parts_.method.begin_pass(pass);
    const at::Tensor loss = at::zeros({}, at::kDouble);
    std::vector<at::Tensor> sums = parts_.method.accumulators();
    sums.push_back(loss);
    for_each_micro_batch(batches, sums, [&](const data::Batch& batch) {
      loss.add_(parts_.model.forward_backward(batch.tokens, batch.targets, scale, BackwardMode::probe).to(at::kCPU));
    });
    reduce(sums);
    if (pass == 0) report.loss = loss.item<double>() / static_cast<double>(report.target_tokens);
    parts_.method.end_pass(pass, parts_.comm);
  }
}

void Trainer::unbind_gradients() {
  for (Parameter* p : parts_.model.parameters()) p->grad.reset();   // views would keep the buffer
  grads_.reset();
}

GradBuffer& Trainer::bound_gradients() {
  if (!grads_) grads_.emplace(parts_.model.parameters());
  gradient_bytes_ = std::max(gradient_bytes_, grads_->nbytes());
  return *grads_;
}

void Trainer::update(std::span<const data::Batch> batches, StepReport& report) {
  GradBuffer& grads = bound_gradients();
  grads.zero();
  const double scale = scaler_.scale() / static_cast<double>(report.target_tokens);
  const at::Tensor loss = at::zeros({}, at::kDouble);
  std::vector<at::Tensor> sums = {grads.flat(), loss};
  for_each_micro_batch(batches, sums, [&](const data::Batch& batch) {
    loss.add_(parts_.model.forward_backward(batch.tokens, batch.targets, scale, BackwardMode::update).to(at::kCPU));
  });
  reduce(sums);
  report.loss = loss.item<double>() / static_cast<double>(report.target_tokens);
  if (scaler_.enabled()) grads.flat().div_(scaler_.scale());
  at::Tensor norm = at::tensor({grads.norm()}, at::kDouble);
  // One figure for all ranks: a norm's last bit may differ between machines, and the clipped update with it.
  if (parts_.comm.size() > 1) parts_.comm.broadcast(norm, 0)->wait();
  report.grad_norm = norm.item<double>();
  const bool finite = std::isfinite(report.loss) && std::isfinite(report.grad_norm);
  guard(report, finite, finite ? "" : grads.first_non_finite());
  if (!finite) return;
  if (options_.grad_clip > 0.0 && report.grad_norm > options_.grad_clip) grads.flat().mul_(options_.grad_clip / report.grad_norm);
  parts_.optimizer.step(report.lr);
}

void Trainer::update_by_layer(std::span<const data::Batch> batches, StepReport& report) {
  const bool once = batches.size() == 1;
  if (!once) bound_gradients().zero();
  const dist::Wire wire = options_.deterministic ? dist::Wire::fp32 : parts_.wire;
  LayerUpdates updates(parts_.optimizer, parts_.comm, wire, report.lr, once);
  const double scale = 1.0 / static_cast<double>(report.target_tokens);
  std::vector<at::Tensor> loss = {at::zeros({}, at::kDouble)};
  for (const auto& batch : batches) {
    GradSink* sink = &batch == &batches.back() ? &updates : nullptr;
    loss[0].add_(parts_.model.forward_backward(batch.tokens, batch.targets, scale, BackwardMode::update, sink).to(at::kCPU));
  }
  reduce(loss);
  gradient_bytes_ = std::max(gradient_bytes_, updates.peak_nbytes());
  report.loss = loss[0].item<double>() / static_cast<double>(report.target_tokens);
  report.grad_norm = updates.norm();
  guard(report, std::isfinite(report.loss) && updates.first_non_finite().empty(), updates.first_non_finite());
}

void Trainer::guard(StepReport& report, bool finite, const std::string& where) {
  const bool explained = scaler_.update(finite);
  if (finite) {
    non_finite_steps_ = 0;
    return;
  }
  report.skipped = true;
  if (explained) return;
  ++non_finite_steps_;
  if (non_finite_steps_ < options_.max_non_finite_steps) return;
  throw DivergedError(concat("diverged: ", non_finite_steps_, " steps in a row with a non-finite ",
                             std::isfinite(report.loss) ? "gradient" : "loss", " (step ", report.step, ", loss ", report.loss,
                             ", gradient norm ", report.grad_norm, where.empty() ? "" : ", first in " + where,
                             "); ", options_.per_layer_updates ? "from there on nothing moved" : "none of their updates was applied", ". Lower optimizer.lr, set train.grad_clip, or lengthen "
                             "lr_schedule.warmup_steps, and resume from the last checkpoint"));
}

StepReport Trainer::step() {
  StepReport report;
  report.step = step_;
  report.lr = parts_.lr.at(step_) * parts_.method.lr_scale(step_);
  const StepPlan plan = parts_.method.begin_step(step_);
  const std::vector<data::Batch> batches = parts_.batches.next_step();
  at::Tensor targets = at::zeros({1}, at::kLong);
  for (const auto& batch : batches) targets.add_(batch.target_count);
  if (parts_.comm.size() > 1) parts_.comm.all_reduce(targets, dist::ReduceOp::sum)->wait();
  report.target_tokens = std::max<std::int64_t>(targets.item<std::int64_t>(), 1);

  report.probe = plan.probe_passes > 0;
  report.update = plan.update;
  const auto probe_begin = Clock::now();
  if (report.probe) {
    probe(plan, batches, report);
    parts_.method.end_probe(step_, parts_.optimizer, parts_.comm, report.method);
    if (report.method.resized) unbind_gradients();
    report.probe_seconds = seconds_since(probe_begin);
  }
  if (plan.update && options_.per_layer_updates) update_by_layer(batches, report);
  if (plan.update && !options_.per_layer_updates) update(batches, report);
  parts_.method.end_step(step_, parts_.optimizer, parts_.comm, report.method);
  if (!plan.update) report.probe_seconds = seconds_since(probe_begin);
  if (!plan.update) guard(report, std::isfinite(report.loss) && !report.method.skipped);

  ++step_;
  tokens_ += report.target_tokens;
  return report;
}

void Trainer::save(StateWriter& out) const {
  out.integer("trainer/step", step_);
  out.integer("trainer/tokens", tokens_);
  out.integer("trainer/non_finite_steps", non_finite_steps_);
  ScopedWriter scaler(out, "loss_scaler/");
  scaler_.save(scaler);
  ScopedWriter model(out, "model/");
  parts_.model.save(model);
  ScopedWriter method(out, "method/");
  parts_.method.save(method);
  ScopedWriter optimizer(out, "optimizer/");
  parts_.optimizer.save(optimizer);
  ScopedWriter lr(out, "lr_schedule/");
  parts_.lr.save(lr);
  ScopedWriter batches(out, "data/");
  parts_.batches.save(batches);
}

void Trainer::load(const StateReader& in) {
  unbind_gradients();   // parameters may take other sizes
  step_ = in.integer("trainer/step");
  tokens_ = in.integer("trainer/tokens");
  non_finite_steps_ = in.integer("trainer/non_finite_steps");
  scaler_.load(ScopedReader(in, "loss_scaler/"));
  parts_.model.load(ScopedReader(in, "model/"));
  parts_.method.load(ScopedReader(in, "method/"));
  parts_.optimizer.load(ScopedReader(in, "optimizer/"));
  parts_.lr.load(ScopedReader(in, "lr_schedule/"));
  parts_.batches.load(ScopedReader(in, "data/"));
}

}  // namespace kumiko
