// SPDX-License-Identifier: Apache-2.0
// adam8bit_tool INPUT OUTPUT NUMEL LR BETA1 BETA2 EPS WEIGHT_DECAY: a file of raw fp32 values, NUMEL
// parameters and then as many gradients for each step, for comparison with other implementations. Output, for
// each step: parameters, then codes and absmax of the first and of the second moment.
#include <cstdlib>
#include <iostream>

#include "framework/core/error.hpp"
#include "quant/int8_state.hpp"
#include "tests/quant/raw_file.hpp"

namespace kumiko::quant {
namespace {

void run(int argc, char** argv) {
  KUMIKO_EXPECTS(argc == 9, UsageError,
                 "usage: adam8bit_tool INPUT OUTPUT NUMEL LR BETA1 BETA2 EPS WEIGHT_DECAY");
  const auto number = [&](int i) { return std::strtod(argv[i], nullptr); };
  const std::int64_t numel = std::strtoll(argv[3], nullptr, 10);
  const at::Tensor rows = test::read_floats(argv[1]).view({-1, numel});
  at::Tensor value = rows[0].clone();
  Int8State first({numel}, Int8Map::with_sign);
  Int8State second({numel}, Int8Map::without_sign);
  test::RawWriter file(argv[2]);
  for (std::int64_t step = 1; step < rows.size(0); ++step) {
    adam8bit_step(value, rows[step], first, second,
                  {number(4), number(5), number(6), number(7), number(8), step});
    file.write(value);
    for (const Int8State* state : {&first, &second}) {
      for (const at::Tensor& part : state->storage()) file.write(part);
    }
  }
  file.close();
}

}  // namespace
}  // namespace kumiko::quant

int main(int argc, char** argv) {
  try {
    kumiko::quant::run(argc, argv);
  } catch (const kumiko::Error& error) {
    std::cerr << "adam8bit_tool: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
  return 0;
}
