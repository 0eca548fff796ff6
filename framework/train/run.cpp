// SPDX-License-Identifier: Apache-2.0
#include "framework/train/run.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/format.hpp"
#include "framework/core/log.hpp"
#include "framework/core/memory_counter.hpp"
#include "framework/core/signals.hpp"

namespace kumiko {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kTokenizerName = "tokenizer/model";

at::Tensor bytes_tensor(const std::string& bytes) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(bytes.size())}, at::kByte);
  std::copy(bytes.begin(), bytes.end(), tensor.data_ptr<std::uint8_t>());
  return tensor;
}

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

MetricTable layer_table(const std::vector<LayerReport>& layers) {
  MetricTable table;
  for (const LayerReport& layer : layers) {
    std::vector<std::pair<std::string, double>> columns;
    if (layer.captured_energy) columns.emplace_back("captured_energy", *layer.captured_energy);
    if (layer.retained_update) columns.emplace_back("retained_update", *layer.retained_update);
    if (layer.weight_error) columns.emplace_back("weight_error", *layer.weight_error);
    if (layer.rank) columns.emplace_back("rank", static_cast<double>(*layer.rank));
    if (!columns.empty()) table.emplace_back(layer.name, std::move(columns));
  }
  return table;
}

}  // namespace

std::string tokenizer_bytes(const StateReader& in) {
  const at::Tensor tensor = in.tensor(kTokenizerName).contiguous();
  return {reinterpret_cast<const char*>(tensor.data_ptr<std::uint8_t>()), static_cast<std::size_t>(tensor.numel())};
}

Run::Run(const RunOptions& options, Trainer& trainer, const Method& method, const LanguageModel& model, LrSchedule& lr,
         data::EvaluationCursor* validation, dist::Communicator& comm, RunRecord* record)
    : options_(options), trainer_(trainer), method_(method), model_(model), lr_(lr), validation_(validation), comm_(comm), record_(record),
      first_step_(trainer.next_step()) {}

Run::Requests Run::agree_on_requests() {
  Requests own{StopSignals::stop_requested(), StopSignals::checkpoint_requested()};
  if (record_ != nullptr && record_->folder.take_stop_request()) own.stop = true;
  if (comm_.size() > 1) {
    at::Tensor flags = at::tensor({own.stop ? 1 : 0, own.checkpoint ? 1 : 0}, at::kInt);
    comm_.all_reduce(flags, dist::ReduceOp::max)->wait();
    own = {flags[0].item<int>() != 0, flags[1].item<int>() != 0};
  }
  if (own.checkpoint) StopSignals::clear_checkpoint_request();
  return own;
}

void Run::log(const StepReport& report, double step_seconds) {
  if (record_ == nullptr) return;
  const std::int64_t done = trainer_.next_step();
  const double rate = static_cast<double>(report.target_tokens) / std::max(step_seconds, 1e-9);
  std::optional<double> mfu;
  if (options_.peak_flops > 0.0) mfu = rate * options_.flops_per_token / (options_.peak_flops * comm_.size());
  const double per_step = train_seconds_ / static_cast<double>(std::max<std::int64_t>(1, done - first_step_));
  StepLine line;
  line.step = done;
  line.total = options_.train.steps;
  line.loss = report.loss;
  line.ppl = std::exp(report.loss);
  line.lr = report.lr;
  if (report.update) line.grad_norm = report.grad_norm;
  line.tokens_per_s = rate;
  line.mfu = mfu;
  line.memory_bytes = memory_counter::current_bytes();
  line.peak_bytes = memory_counter::peak_bytes();
  line.merges = method_.merges();
  line.eta_seconds = per_step * static_cast<double>(options_.train.steps - done);
  record_->progress.step(line);

  MetricFields fields = {{"tokens", trainer_.tokens_seen()}, {"loss", report.loss}, {"lr", report.lr}};
  if (report.update) fields.emplace_back("grad_norm", report.grad_norm);
  fields.emplace_back("merges", method_.merges());
  if (report.probe) fields.emplace_back("probe", std::int64_t{1});
  if (report.skipped) fields.emplace_back("skipped", std::int64_t{1});
  if (report.method.captured_energy > 0.0) fields.emplace_back("captured_energy", report.method.captured_energy);
  if (report.method.weight_error > 0.0) fields.emplace_back("weight_error", report.method.weight_error);
  if (!report.method.layers.empty()) fields.emplace_back("layers", layer_table(report.method.layers));
  fields.emplace_back("step_seconds", step_seconds);
  if (report.probe) fields.emplace_back("probe_seconds", report.probe_seconds);
  fields.emplace_back("tokens_per_s", rate);
  if (mfu) fields.emplace_back("mfu", *mfu);
  fields.emplace_back("memory_bytes", memory_counter::current_bytes());
  fields.emplace_back("peak_memory_bytes", memory_counter::peak_bytes());
  record_->metrics.add(done, fields);
  if (record_->tensorboard != nullptr) {
    std::vector<std::pair<std::string, double>> scalars = {{"train/loss", report.loss}, {"train/lr", report.lr},
                                                           {"train/tokens_per_s", rate}};
    if (report.update) scalars.emplace_back("train/grad_norm", report.grad_norm);
    record_->tensorboard->scalars(done, scalars);
  }
}

void Run::evaluate_now() {
  const std::int64_t step = trainer_.next_step();
  evaluated_step_ = step;
  if (validation_ == nullptr) return;
  const auto begin = Clock::now();
  const EvalReport report = evaluate(model_, *validation_, comm_);
  lr_.observe_eval(report.loss);
  summary_.eval = report;
  if (record_ == nullptr) return;
  record_->metrics.add(step, {{"eval_loss", report.loss},
                              {"eval_ppl", report.ppl},
                              {"eval_ppl_published_convention", report.ppl_published_convention},
                              {"eval_tokens", report.tokens},
                              {"eval_seconds", seconds_since(begin)}});
  if (record_->tensorboard != nullptr) record_->tensorboard->scalars(step, std::vector<std::pair<std::string, double>>{{"eval/loss", report.loss}, {"eval/ppl", report.ppl}});
  record_->progress.message(concat("eval  ", step, "/", options_.train.steps, " | validation loss ", report.loss, " | ppl ", report.ppl,
                                   " (published convention ", report.ppl_published_convention, ") | ", format_count(report.tokens),
                                   " tokens in ", format_duration(seconds_since(begin))));
}

void Run::save_now() {
  const std::int64_t step = trainer_.next_step();
  checkpoint_due_ = false;
  if (record_ == nullptr) return;
  record_->metrics.sync();
  const SaveResult result = record_->checkpoints.save(step, record_->meta, [&](StateWriter& out) {
    trainer_.save(out);
    out.tensor(kTokenizerName, bytes_tensor(record_->tokenizer));
  });
  summary_.checkpoint_problem = result.problem;
  if (!result.saved) {
    const bool goes_on = step < options_.train.steps;
    log::warning(concat(result.problem, goes_on ? "; training goes on and the checkpoints before it stay, make room for the next" : ""));
  } else {
    record_->progress.message(concat("saved ", result.folder.string(), " (", format_bytes(result.bytes), ")"));
    if (!result.warning.empty()) log::warning(result.warning);
  }
}

RunSummary Run::go() {
  const auto begin = Clock::now();
  bool stopped = false;
  while (!stopped && trainer_.next_step() < options_.train.steps) {
    const auto step_begin = Clock::now();
    const StepReport report = trainer_.step();
    const double step_seconds = seconds_since(step_begin);
    train_seconds_ += step_seconds;
    train_tokens_ += report.target_tokens;
    const std::int64_t done = trainer_.next_step();
    const bool last = done == options_.train.steps;
    if (record_ != nullptr) record_->progress.advance(done);
    if (report.skipped) {
      if (record_ != nullptr) {
        log::warning(concat("step ", done, ": ", report.update ? "the update" : "the probe",
                            " met numbers that are not finite and was skipped; ",
                            options_.train.per_layer_updates ? "what is behind them in the backward pass did not move" : "nothing moved"));
      }
    }
    if (report.update && report.method.skipped && record_ != nullptr) {
      log::warning(concat("step ", done, ": the probe met numbers that are not finite; its refresh was left out"));
    }
    const bool telling = report.probe || report.method.merged || !report.method.layers.empty();
    if (done == 1 || last || telling || due(options_.log.every)) log(report, step_seconds);
    if (last || due(options_.eval.every)) evaluate_now();
    const Requests requests = agree_on_requests();
    stopped = requests.stop;
    const std::int64_t every = record_ != nullptr ? record_->checkpoints.policy().every : 0;
    // In a streak of skipped steps the checkpoints from before it are the better ones to keep.
    checkpoint_due_ = checkpoint_due_ || due(every);
    if (stopped || last || requests.checkpoint || (checkpoint_due_ && !report.skipped)) save_now();
  }
  summary_.complete = trainer_.next_step() >= options_.train.steps;
  if (summary_.complete && evaluated_step_ != trainer_.next_step()) evaluate_now();   // resumed at the very end
  summary_.first_step = first_step_;
  summary_.steps = trainer_.next_step();
  summary_.merges = method_.merges();
  summary_.tokens_per_s = train_seconds_ > 0.0 ? static_cast<double>(train_tokens_) / train_seconds_ : 0.0;
  summary_.seconds = seconds_since(begin);
  if (record_ != nullptr) {
    record_->metrics.sync();
    record_->progress.finish();
  }
  return summary_;
}

}  // namespace kumiko
