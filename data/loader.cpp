// SPDX-License-Identifier: Apache-2.0
#include "data/loader.hpp"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>

#include "data/permutation.hpp"
#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"
#include "framework/core/state.hpp"

namespace kumiko::data {
namespace {

constexpr std::int64_t kWindowBatches = 16;

std::string divisors(std::int64_t number) {
  std::string list;
  for (std::int64_t i = 1; i <= number; ++i) {
    if (number % i == 0) list += (list.empty() ? "" : ", ") + std::to_string(i);
  }
  return list;
}

void check(const LoaderOptions& options) {
  const std::int64_t global = options.global_batch_size;
  const std::int64_t micro = options.micro_batch_size;
  KUMIKO_EXPECTS(global > 0 && micro > 0 && options.ranks > 0 && options.prefetch_steps >= 0, UsageError,
                 "train.global_batch_size ", global, " and train.micro_batch_size ", micro,
                 " must be positive");
  KUMIKO_EXPECTS(global % options.ranks == 0, UsageError, "train.global_batch_size ", global,
                 " cannot be shared by ", options.ranks, " ranks; rank counts that can: ", divisors(global));
  const std::int64_t share = global / options.ranks;
  KUMIKO_EXPECTS(share % micro == 0, UsageError, "train.micro_batch_size ", micro, " does not divide the ",
                 share, " samples that each of ", options.ranks, " ranks has of train.global_batch_size ",
                 global, "; sizes that do: ", divisors(share));
}

}  // namespace

SampleOrder::SampleOrder(SampleTable table, Batching batching, std::int64_t global_batch_size,
                         std::uint64_t seed)
    : table_(std::move(table)),
      batching_(batching),
      global_batch_size_(global_batch_size),
      key_(stream_seed(seed, "data order")) {}

Sample SampleOrder::sample(std::int64_t position) const {
  const auto size = static_cast<std::uint64_t>(table_.size());
  const std::uint64_t epoch = static_cast<std::uint64_t>(position) / size;
  const Permutation order(size, mix64(key_ ^ mix64(epoch + 1)));
  return table_.at(static_cast<std::int64_t>(order(static_cast<std::uint64_t>(position) % size)));
}

const std::vector<Sample>& SampleOrder::window(std::int64_t number) {
  if (window_number_ == number) return window_;
  const std::int64_t count = kWindowBatches * global_batch_size_;
  std::vector<Sample> sorted(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) sorted[static_cast<std::size_t>(i)] = sample(number * count + i);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Sample& a, const Sample& b) { return a.length < b.length; });
  const Permutation batches(kWindowBatches,
                            stream_seed(key_ ^ mix64(static_cast<std::uint64_t>(number) + 1), "window"));
  window_.clear();
  for (std::uint64_t i = 0; i < kWindowBatches; ++i) {
    const auto from = sorted.begin() + static_cast<std::int64_t>(batches(i)) * global_batch_size_;
    window_.insert(window_.end(), from, from + global_batch_size_);
  }
  window_number_ = number;
  return window_;
}

std::vector<Sample> SampleOrder::samples(std::int64_t step, std::int64_t begin, std::int64_t end) {
  std::vector<Sample> result;
  if (batching_ == Batching::bucketed) {
    const auto from = window(step / kWindowBatches).begin() + (step % kWindowBatches) * global_batch_size_;
    result.assign(from + begin, from + end);
    return result;
  }
  for (std::int64_t i = begin; i < end; ++i) result.push_back(sample(step * global_batch_size_ + i));
  return result;
}

struct Loader::Impl {
  const ShardSet& shards;
  DataOptions data;
  LoaderOptions options;
  SampleOrder order;
  std::int64_t step = 0;  // what next_step() gives next

  struct Made {
    std::vector<Batch> batches;
    std::exception_ptr error;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Made> ready;
  bool stopping = false;
  std::thread worker;

  Impl(const ShardSet& set, const DataOptions& data_options, const LoaderOptions& loader_options)
      : shards(set),
        data(data_options),
        options(loader_options),
        order(SampleTable(set, data.batching, data.sequence_length), data.batching, options.global_batch_size,
              options.seed) {
    KUMIKO_EXPECTS(order.size() > 0, DataError, "the training shards have ", set.tokens(),
                   " tokens, too few for one sample of data.sequence_length ", data.sequence_length,
                   "; prepare more text or use a smaller data.sequence_length");
  }
  ~Impl() { stop(); }

  std::vector<Batch> make(std::int64_t number) {
    const std::int64_t share = options.global_batch_size / options.ranks;
    const std::vector<Sample> samples =
        order.samples(number, options.rank * share, (options.rank + 1) * share);
    std::vector<Batch> batches;
    const auto micro = static_cast<std::size_t>(options.micro_batch_size);
    for (std::size_t i = 0; i < samples.size(); i += micro) {
      batches.push_back(make_batch(shards, std::span(samples).subspan(i, micro)));
    }
    return batches;
  }

  // Makes steps from `first` on until stopped or until one fails.
  void work(std::int64_t first) noexcept {
    for (std::int64_t number = first;; ++number) {
      Made made;
      try {
        made.batches = make(number);
      } catch (...) {
        made.error = std::current_exception();
      }
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] {
        return stopping || static_cast<std::int64_t>(ready.size()) < options.prefetch_steps;
      });
      if (stopping) return;
      const bool failed = made.error != nullptr;
      ready.push_back(std::move(made));
      changed.notify_all();
      if (failed) return;
    }
  }

  void stop() noexcept {
    if (!worker.joinable()) return;
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_all();
    worker.join();
    stopping = false;
    ready.clear();
  }

  Made take() {
    if (!worker.joinable()) worker = std::thread([this, first = step] { work(first); });
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return !ready.empty(); });
    Made made = std::move(ready.front());
    ready.pop_front();
    changed.notify_all();
    return made;
  }
};

Loader::Loader(const ShardSet& shards, const DataOptions& data, const LoaderOptions& options) {
  check(options);
  impl_ = std::make_unique<Impl>(shards, data, options);
}

Loader::~Loader() = default;

std::vector<Batch> Loader::next_step() {
  if (impl_->options.prefetch_steps == 0) {
    std::vector<Batch> batches = impl_->make(impl_->step);
    ++impl_->step;
    return batches;
  }
  Impl::Made made = impl_->take();
  if (made.error) {
    impl_->stop();
    std::rethrow_exception(made.error);
  }
  ++impl_->step;
  return std::move(made.batches);
}

void Loader::save(StateWriter& out) const {
  out.integer("samples_consumed", samples_consumed());
  out.integer("global_batch_size", impl_->options.global_batch_size);
  out.integer("seed", static_cast<std::int64_t>(impl_->options.seed));
  out.integer("sequence_length", impl_->data.sequence_length);
  out.integer("batching", static_cast<std::int64_t>(impl_->data.batching));
  out.text("data_digest", impl_->shards.digest());
}

void Loader::load(const StateReader& in) {
  const auto same = [&in](std::string_view name, std::int64_t mine, std::string_view key) {
    KUMIKO_EXPECTS(in.integer(name) == mine, CheckpointError, key, " was ", in.integer(name),
                   " in the checkpoint and is ", mine, " now, so the samples would come in another order");
  };
  same("global_batch_size", impl_->options.global_batch_size, "train.global_batch_size");
  same("seed", static_cast<std::int64_t>(impl_->options.seed), "train.seed");
  same("sequence_length", impl_->data.sequence_length, "data.sequence_length");
  same("batching", static_cast<std::int64_t>(impl_->data.batching), "data.batching (by number)");
  KUMIKO_EXPECTS(in.text("data_digest") == impl_->shards.digest(), CheckpointError,
                 "the training shards are not those of the checkpoint; restore them or start a new run");
  const std::int64_t consumed = in.integer("samples_consumed");
  KUMIKO_EXPECTS(consumed >= 0 && consumed % impl_->options.global_batch_size == 0, CheckpointError,
                 "a position of ", consumed, " samples is between two steps");
  impl_->stop();
  impl_->step = consumed / impl_->options.global_batch_size;
}

std::int64_t Loader::samples_per_epoch() const noexcept { return impl_->order.size(); }
std::int64_t Loader::samples_consumed() const noexcept {
  return impl_->step * impl_->options.global_batch_size;
}
double Loader::epochs() const noexcept {
  return static_cast<double>(samples_consumed()) / static_cast<double>(samples_per_epoch());
}

EvaluationCursor::EvaluationCursor(const ShardSet& shards, const DataOptions& data,
                                   const EvaluationOptions& options)
    : shards_(shards), table_(shards, data.batching, data.sequence_length, true), options_(options) {
  KUMIKO_EXPECTS(options.batch_size > 0 && options.ranks > 0, UsageError, "an evaluation batch of ",
                 options.batch_size, " samples cannot be made");
  KUMIKO_EXPECTS(table_.size() > 0, DataError,
                 "the validation shards have no sample; prepare more text or a larger", " --validation");
  if (options_.max_tokens <= 0) options_.max_tokens = std::numeric_limits<std::int64_t>::max();
}

std::optional<Batch> EvaluationCursor::next() {
  while (next_sample_ < table_.size() && targets_ < options_.max_tokens) {
    std::vector<Sample> samples;
    const std::int64_t end = std::min(next_sample_ + options_.batch_size, table_.size());
    for (; next_sample_ < end && targets_ < options_.max_tokens; ++next_sample_) {
      Sample sample = table_.at(next_sample_);
      sample.length = 1 + std::min(sample.length - 1, options_.max_tokens - targets_);
      targets_ += sample.length - 1;
      samples.push_back(sample);
    }
    if (batch_++ % options_.ranks == options_.rank) return make_batch(shards_, samples);
  }
  return std::nullopt;
}

std::vector<std::int64_t> count_targets(const ShardSet& shards, const DataOptions& data,
                                        std::int64_t max_tokens) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(shards.vocab_size()));
  EvaluationCursor cursor(shards, data, {.batch_size = 64, .max_tokens = max_tokens});
  while (const std::optional<Batch> batch = cursor.next()) {
    const auto* targets = batch->targets.data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < batch->targets.numel(); ++i) {
      if (targets[i] != kNoTarget) ++counts[static_cast<std::size_t>(targets[i])];
    }
  }
  return counts;
}

}  // namespace kumiko::data
