// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "data/loader.hpp"
#include "dist/communicator.hpp"
#include "framework/model/language_model.hpp"

namespace kumiko {

struct EvalReport {
  std::int64_t tokens = 0;                     // targets evaluated, over all ranks
  double loss = 0.0;                           // mean over all tokens, nats
  double ppl = 0.0;                            // exp(loss)
  double ppl_published_convention = 0.0;       // exp of the sum of batch means over one batch too many, as LoQT's and GaLore's code
};

// Evaluates all batches of the cursor from its beginning; each rank has its share. Touches no state of a run. The sums are formed
// in the order of the batches, so the result does not depend on the number of ranks.
EvalReport evaluate(const LanguageModel& model, data::EvaluationCursor& batches, dist::Communicator& comm);

}  // namespace kumiko
