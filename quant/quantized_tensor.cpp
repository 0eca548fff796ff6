// SPDX-License-Identifier: Apache-2.0
#include "quant/quantized_tensor.hpp"

#include <limits>
#include <string>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "quant/stochastic.hpp"

namespace kumiko::quant {
namespace {

bool is_supported(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf;
}

void check_dtype(std::string_view what, at::ScalarType dtype) {
  KUMIKO_EXPECTS(is_supported(dtype), ShapeError, what, " takes fp32, bf16 and fp16, not ", dtype);
}

std::int64_t blocks_of(std::int64_t numel, const QuantFormat& format) {
  return (numel + format.block_size - 1) / format.block_size;
}

// Product of sizes from a file; -1 where it is negative or does not fit.
std::int64_t checked_numel(at::IntArrayRef sizes) {
  std::int64_t numel = 1;
  for (const std::int64_t size : sizes) {
    if (size < 0) return -1;
    if (size != 0 && numel > std::numeric_limits<std::int64_t>::max() / 16 / size) return -1;
    numel *= size;
  }
  return numel;
}

std::string part_path(std::string_view name, std::string_view part) { return concat(name, "/", part); }

QuantFormat read_format(const StateReader& in, std::string_view name) {
  const std::string codec = in.text(part_path(name, "codec"));
  try {
    QuantFormat format{.codec = parse_codec(codec)};
    if (format.codec == CodecKind::none) return format;
    format.block_size = in.integer(part_path(name, "block_size"));
    format.double_quant = in.integer(part_path(name, "double_quant")) != 0;
    validate(format);
    return format;
  } catch (const UsageError& error) {
    throw CheckpointError(concat("'", name, "': ", error.what()));
  }
}

std::vector<std::int64_t> read_sizes(const StateReader& in, std::string_view name) {
  const std::string path = part_path(name, "sizes");
  const at::Tensor stored = in.tensor(path).contiguous();
  KUMIKO_EXPECTS(stored.scalar_type() == at::kLong && stored.dim() == 1, CheckpointError, "'", path,
                 "' is not a list of 64-bit integers; take an older checkpoint");
  const auto* data = stored.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> sizes(data, data + stored.numel());
  KUMIKO_EXPECTS(checked_numel(sizes) >= 0, CheckpointError, "'", path, "' holds impossible sizes ",
                 at::IntArrayRef(sizes), "; take an older checkpoint");
  return sizes;
}

}  // namespace

struct QuantizedTensor::Part {
  const char* name;
  at::Tensor* tensor;
};

std::vector<QuantizedTensor::Part> QuantizedTensor::parts() {
  if (is_dense()) return {{"dense", &codes_}};
  if (!format_.double_quant) return {{"codes", &codes_}, {"scales", &scales_.values}};
  return {{"codes", &codes_},
          {"scale_codes", &scales_.values},
          {"scale_offset", &scales_.offset},
          {"scale_absmax", &scales_.group_absmax}};
}

QuantizedTensor::QuantizedTensor()
    : sizes_{0}, format_{.codec = CodecKind::none}, codes_(at::empty({0}, at::kFloat)) {}

std::int64_t QuantizedTensor::numel() const noexcept { return checked_numel(sizes_); }

QuantizedTensor QuantizedTensor::quantize(const at::Tensor& dense, const QuantFormat& format,
                                          std::optional<at::ScalarType> dense_dtype,
                                          std::optional<std::uint64_t> stochastic_seed) {
  validate(format);
  check_dtype("quantize", dense.scalar_type());
  QuantizedTensor value;
  value.sizes_ = dense.sizes().vec();
  value.format_ = format;
  if (value.is_dense()) {
    const at::ScalarType kept = dense_dtype.value_or(dense.scalar_type());
    check_dtype("codec none", kept);
    value.codes_ = stochastic_seed ? stochastic_to(dense.detach(), kept, *stochastic_seed)
                                   : dense.detach().to(kept, false, true, at::MemoryFormat::Contiguous);
    return value;
  }
  const Codec& codec = codec_of(format.codec);
  const at::Tensor flat = dense.detach().contiguous();
  value.codes_ = at::empty({codec.code_bytes(flat.numel())}, flat.options().dtype(at::kByte));
  Scales plain = empty_scales(blocks_of(flat.numel(), format), false, flat.device());
  codec.encode(flat, format.block_size, stochastic_seed, value.codes_, plain.values);
  value.scales_ = format.double_quant ? encode_scales(plain.values) : plain;
  return value;
}

QuantizedTensor QuantizedTensor::empty(at::IntArrayRef sizes, const QuantFormat& format,
                                       at::ScalarType dense_dtype, at::Device device) {
  validate(format);
  const std::int64_t numel = checked_numel(sizes);
  KUMIKO_EXPECTS(numel >= 0, ShapeError, "impossible sizes ", sizes);
  const auto options = at::TensorOptions().device(device);
  QuantizedTensor value;
  value.sizes_ = sizes.vec();
  value.format_ = format;
  if (value.is_dense()) {
    check_dtype("codec none", dense_dtype);
    value.codes_ = at::zeros(sizes, options.dtype(dense_dtype));
    return value;
  }
  value.codes_ = at::empty({codec_of(format.codec).code_bytes(numel)}, options.dtype(at::kByte));
  value.scales_ = empty_scales(blocks_of(numel, format), format.double_quant, device);
  for (const Part& part : value.parts()) part.tensor->zero_();
  return value;
}

at::Tensor QuantizedTensor::dequantize(at::ScalarType dtype) const {
  check_dtype("dequantize", dtype);
  if (is_dense()) return codes_.to(dtype);
  at::Tensor out = at::empty(sizes_, codes_.options().dtype(dtype));
  dequantize_into(out);
  return out;
}

void QuantizedTensor::dequantize_into(at::Tensor& out) const {
  check_dtype("dequantize", out.scalar_type());
  KUMIKO_EXPECTS(out.numel() == numel() && out.is_contiguous() && out.device() == device(), ShapeError,
                 "dequantize needs a contiguous tensor of ", numel(), " elements on ", device(), ", got ",
                 out.sizes(), " on ", out.device(), out.is_contiguous() ? "" : ", not contiguous");
  at::Tensor target = out.detach();
  if (is_dense()) {
    target.view({-1}).copy_(codes_.view({-1}));
    return;
  }
  codec_of(format_.codec).decode(codes_, scales_, format_.block_size, target);
}

std::int64_t QuantizedTensor::nbytes() const {
  std::int64_t total = 0;
  for (const at::Tensor& tensor : storage()) total += static_cast<std::int64_t>(tensor.nbytes());
  return total;
}

std::int64_t QuantizedTensor::nbytes_for(std::int64_t numel, const QuantFormat& format,
                                         at::ScalarType dense_dtype) {
  constexpr std::int64_t kFp32Bytes = 4;
  const Codec& codec = codec_of(format.codec);
  if (codec.bits == 0) return numel * static_cast<std::int64_t>(c10::elementSize(dense_dtype));
  const std::int64_t blocks = blocks_of(numel, format);
  if (!format.double_quant) return codec.code_bytes(numel) + blocks * kFp32Bytes;
  const std::int64_t groups = (blocks + kScaleGroup - 1) / kScaleGroup;
  return codec.code_bytes(numel) + blocks + (groups + 1) * kFp32Bytes;
}

std::vector<at::Tensor> QuantizedTensor::storage() const {
  std::vector<at::Tensor> tensors;
  QuantizedTensor shared = *this;
  for (const Part& part : shared.parts()) tensors.push_back(*part.tensor);
  return tensors;
}

QuantizedTensor QuantizedTensor::to(at::Device device) const {
  QuantizedTensor moved = *this;
  for (const Part& part : moved.parts()) *part.tensor = part.tensor->to(device);
  return moved;
}

void QuantizedTensor::save(StateWriter& out, std::string_view name) const {
  out.text(part_path(name, "codec"), codec_of(format_.codec).name);
  if (!is_dense()) {
    out.integer(part_path(name, "block_size"), format_.block_size);
    out.integer(part_path(name, "double_quant"), format_.double_quant ? 1 : 0);
  }
  out.tensor(part_path(name, "sizes"), at::tensor(sizes_, at::kLong));
  QuantizedTensor shared = *this;
  for (const Part& part : shared.parts()) out.tensor(part_path(name, part.name), *part.tensor);
}

QuantizedTensor QuantizedTensor::load(const StateReader& in, std::string_view name, at::Device device) {
  const QuantFormat format = read_format(in, name);
  const std::vector<std::int64_t> sizes = read_sizes(in, name);
  QuantizedTensor value;
  value.sizes_ = sizes;
  value.format_ = format;
  const std::int64_t numel = checked_numel(sizes);
  const auto expect = [&](const char* part, at::Tensor& to, at::IntArrayRef part_sizes, auto dtype_fits) {
    const std::string path = part_path(name, part);
    const at::Tensor stored = in.tensor(path);
    KUMIKO_EXPECTS(stored.sizes() == part_sizes && dtype_fits(stored.scalar_type()), CheckpointError, "'",
                   path, "' is ", stored.scalar_type(), stored.sizes(), ", which does not fit a value of ",
                   at::IntArrayRef(sizes), " in ", describe(format), "; take an older checkpoint");
    to = stored.to(device, stored.scalar_type(), false, true, at::MemoryFormat::Contiguous);
  };
  const auto is = [](at::ScalarType wanted) {
    return [wanted](at::ScalarType found) { return found == wanted; };
  };
  if (value.is_dense()) {
    expect("dense", value.codes_, sizes, is_supported);
    return value;
  }
  const std::int64_t blocks = blocks_of(numel, format);
  expect("codes", value.codes_, {codec_of(format.codec).code_bytes(numel)}, is(at::kByte));
  if (!format.double_quant) {
    expect("scales", value.scales_.values, {blocks}, is(at::kFloat));
    return value;
  }
  expect("scale_codes", value.scales_.values, {blocks}, is(at::kByte));
  expect("scale_offset", value.scales_.offset, {1}, is(at::kFloat));
  expect("scale_absmax", value.scales_.group_absmax, {(blocks + kScaleGroup - 1) / kScaleGroup},
         is(at::kFloat));
  return value;
}

QuantizedTensor QuantizedTensor::load(const StateReader& in, std::string_view name, at::IntArrayRef sizes,
                                      const QuantFormat& format, at::ScalarType dense_dtype,
                                      at::Device device) {
  QuantizedTensor value = load(in, name, device);
  KUMIKO_EXPECTS(value.sizes() == sizes && value.format() == format, CheckpointError, "'", name, "' is ",
                 value.sizes(), " in ", describe(value.format()), " in the checkpoint, ", sizes, " in ",
                 describe(format), " in this run");
  KUMIKO_EXPECTS(!value.is_dense() || value.codes_.scalar_type() == dense_dtype, CheckpointError, "'", name,
                 "' is kept in ", value.codes_.scalar_type(), " in the checkpoint, in ", dense_dtype,
                 " in this run");
  return value;
}

}  // namespace kumiko::quant
