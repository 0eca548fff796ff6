// SPDX-License-Identifier: Apache-2.0
// nf4_tool BLOCK_SIZE INPUT OUTPUT: quantizes the raw fp32 values of a file for comparison with other
// implementations. Output: codes, scales (fp32), scale codes, offset, group scales, then the values decoded
// with plain and with doubled scales.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "quant/quantized_tensor.hpp"

namespace {

at::Tensor read_floats(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  KUMIKO_EXPECTS(file.good(), UsageError, "cannot read ", path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  at::Tensor values = at::empty({static_cast<std::int64_t>(bytes.size() / sizeof(float))}, at::kFloat);
  std::copy_n(bytes.begin(), values.nbytes(), static_cast<char*>(values.mutable_data_ptr()));
  return values;
}

void write(std::ofstream& file, const at::Tensor& tensor) {
  file.write(static_cast<const char*>(tensor.const_data_ptr()),
             static_cast<std::streamsize>(tensor.nbytes()));
}

void run(std::int64_t block_size, const std::string& input, const std::string& output) {
  using kumiko::quant::QuantizedTensor;
  const at::Tensor dense = read_floats(input);
  const auto plain = QuantizedTensor::quantize(dense, {.block_size = block_size, .double_quant = false});
  const auto doubled = QuantizedTensor::quantize(dense, {.block_size = block_size, .double_quant = true});
  std::ofstream file(output, std::ios::binary);
  for (const at::Tensor& part : plain.storage()) write(file, part);
  for (const at::Tensor& part : doubled.storage()) {
    if (!part.is_same(doubled.storage().front())) write(file, part);
  }
  write(file, plain.dequantize(at::kFloat));
  write(file, doubled.dequantize(at::kFloat));
  KUMIKO_EXPECTS(file.flush().good(), UsageError, "cannot write ", output);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: nf4_tool BLOCK_SIZE INPUT OUTPUT\n";
    return 2;
  }
  try {
    run(std::strtoll(argv[1], nullptr, 10), argv[2], argv[3]);
  } catch (const kumiko::Error& error) {
    std::cerr << "nf4_tool: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
  return 0;
}
