// SPDX-License-Identifier: Apache-2.0
// codec_tool INPUT OUTPUT [CODEC:BLOCK_SIZE]...: quantizes the raw fp32 values of a file for comparison with
// other implementations. Output, for each format: codes, scales (fp32), scale codes, offset, group scales,
// then the values decoded with plain and with doubled scales.
#include <cstdlib>
#include <iostream>
#include <string>

#include "framework/core/error.hpp"
#include "quant/quantized_tensor.hpp"
#include "tests/quant/raw_file.hpp"

namespace kumiko::quant {
namespace {

void write_format(test::RawWriter& file, const at::Tensor& dense, const QuantFormat& format) {
  QuantFormat nested = format;
  nested.double_quant = true;
  const auto plain = QuantizedTensor::quantize(dense, format);
  const auto doubled = QuantizedTensor::quantize(dense, nested);
  for (const at::Tensor& part : plain.storage()) file.write(part);
  const std::vector<at::Tensor> parts = doubled.storage();
  for (std::size_t i = 1; i < parts.size(); ++i) file.write(parts[i]);
  file.write(plain.dequantize(at::kFloat));
  file.write(doubled.dequantize(at::kFloat));
}

void run(int argc, char** argv) {
  KUMIKO_EXPECTS(argc > 3, UsageError, "usage: codec_tool INPUT OUTPUT CODEC:BLOCK_SIZE...");
  const at::Tensor dense = test::read_floats(argv[1]);
  test::RawWriter file(argv[2]);
  for (int i = 3; i < argc; ++i) {
    const std::string text = argv[i];
    const std::size_t colon = text.find(':');
    KUMIKO_EXPECTS(colon != std::string::npos, UsageError, text, " is not CODEC:BLOCK_SIZE");
    write_format(file, dense,
                 {.codec = parse_codec(text.substr(0, colon)),
                  .block_size = std::strtoll(text.c_str() + colon + 1, nullptr, 10),
                  .double_quant = false});
  }
  file.close();
}

}  // namespace
}  // namespace kumiko::quant

int main(int argc, char** argv) {
  try {
    kumiko::quant::run(argc, argv);
  } catch (const kumiko::Error& error) {
    std::cerr << "codec_tool: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
  return 0;
}
