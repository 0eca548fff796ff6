// SPDX-License-Identifier: Apache-2.0
#include "framework/train/evaluate.hpp"

#include <cmath>
#include <vector>

#include <ATen/ATen.h>

namespace kumiko {
namespace {

struct BatchLoss {
  double loss = 0.0;
  double tokens = 0.0;
};

// Of all ranks, in the order of the batches: rank r holds batches r, r + size, ...
std::vector<BatchLoss> gather(const std::vector<BatchLoss>& own, dist::Communicator& comm) {
  if (comm.size() == 1) return own;
  at::Tensor count = at::tensor({static_cast<std::int64_t>(own.size())}, at::kLong);
  comm.all_reduce(count, dist::ReduceOp::max)->wait();
  at::Tensor all = at::zeros({count.item<std::int64_t>(), comm.size(), 2}, at::kDouble);
  auto entry = all.accessor<double, 3>();
  for (std::size_t i = 0; i < own.size(); ++i) {
    entry[static_cast<std::int64_t>(i)][comm.rank()][0] = own[i].loss;
    entry[static_cast<std::int64_t>(i)][comm.rank()][1] = own[i].tokens;
  }
  comm.all_reduce(all, dist::ReduceOp::sum)->wait();
  std::vector<BatchLoss> result;
  for (std::int64_t i = 0; i < all.size(0); ++i) {
    for (std::int64_t r = 0; r < all.size(1); ++r) {
      if (entry[i][r][1] > 0.0) result.push_back({entry[i][r][0], entry[i][r][1]});
    }
  }
  return result;
}

}  // namespace

EvalReport evaluate(const LanguageModel& model, data::EvaluationCursor& batches, dist::Communicator& comm) {
  std::vector<BatchLoss> own;
  batches.rewind();
  while (const auto batch = batches.next()) {
    own.push_back({model.loss_sum(batch->tokens, batch->targets).item<double>(), static_cast<double>(batch->target_count)});
  }
  double loss = 0.0;
  double tokens = 0.0;
  double batch_means = 0.0;
  const auto all = gather(own, comm);
  for (const BatchLoss& batch : all) {
    loss += batch.loss;
    tokens += batch.tokens;
    batch_means += batch.loss / batch.tokens;
  }
  EvalReport report;
  report.tokens = static_cast<std::int64_t>(tokens);
  report.loss = tokens > 0.0 ? loss / tokens : std::nan("");
  report.ppl = std::exp(report.loss);
  report.ppl_published_convention = std::exp(batch_means / static_cast<double>(all.size() + 1));
  return report;
}

}  // namespace kumiko
