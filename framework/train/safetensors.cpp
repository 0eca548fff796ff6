// SPDX-License-Identifier: Apache-2.0
#include "framework/train/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <numeric>
#include <optional>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "framework/core/error.hpp"
#include "framework/core/files.hpp"
#include "framework/train/durable_stream.hpp"
#include "framework/train/strict_json.hpp"

namespace kumiko {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::int64_t kMaxHeaderBytes = 100'000'000;
constexpr std::int64_t kPrefixBytes = 8;
constexpr std::size_t kMaxDims = 32;

struct DtypeName {
  std::string_view name;
  at::ScalarType dtype;
};
constexpr std::array<DtypeName, 5> kDtypes{{{"F32", at::kFloat},
                                            {"BF16", at::kBFloat16},
                                            {"F16", at::kHalf},
                                            {"I64", at::kLong},
                                            {"U8", at::kByte}}};

std::optional<std::string_view> name_of(at::ScalarType dtype) {
  for (const auto& known : kDtypes) {
    if (known.dtype == dtype) return known.name;
  }
  return std::nullopt;
}

// Bytes of a tensor, or nothing when that is no 63-bit number.
std::optional<std::int64_t> bytes_of(const SafetensorsEntry& entry) {
  std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(entry.dtype));
  bool empty = false;
  for (const std::int64_t extent : entry.shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : bytes;
}

std::vector<std::size_t> writing_order(const std::vector<SafetensorsEntry>& entries) {
  std::vector<std::size_t> order(entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const auto width_a = c10::elementSize(entries[a].dtype);
    const auto width_b = c10::elementSize(entries[b].dtype);
    return width_a != width_b ? width_a > width_b : entries[a].name < entries[b].name;
  });
  return order;
}

// Header with its size in front; `data_bytes` receives the bytes of all tensors.
std::string encode_header(const std::vector<SafetensorsEntry>& entries, const std::vector<std::size_t>& order,
                          const std::map<std::string, std::string>& metadata, std::int64_t& data_bytes) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  data_bytes = 0;
  for (const std::size_t index : order) {
    const auto& entry = entries[index];
    KUMIKO_EXPECTS(name_of(entry.dtype), CheckpointError, "tensor '", entry.name, "' is ", entry.dtype,
                   ", which safetensors files of this program do not hold");
    KUMIKO_EXPECTS(entry.name != "__metadata__" && !header.contains(entry.name), CheckpointError,
                   "tensor name '", entry.name, "' is given twice or is reserved");
    const auto bytes = bytes_of(entry);
    KUMIKO_EXPECTS(bytes, CheckpointError, "the size of tensor '", entry.name, "' is out of range");
    header[entry.name] = {{"dtype", *name_of(entry.dtype)},
                          {"shape", entry.shape},
                          {"data_offsets", {data_bytes, data_bytes + *bytes}}};
    data_bytes += *bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  KUMIKO_EXPECTS(static_cast<std::int64_t>(text.size()) <= kMaxHeaderBytes, CheckpointError,
                 "a safetensors header of ", text.size(), " bytes is over the format's limit");
  const std::uint64_t size = text.size();
  std::string prefix(kPrefixBytes, '\0');
  std::memcpy(prefix.data(), &size, sizeof size);
  return prefix + text;
}

std::span<const std::byte> bytes_of(const at::Tensor& contiguous) {
  return {static_cast<const std::byte*>(contiguous.const_data_ptr()),
          static_cast<std::size_t>(contiguous.nbytes())};
}

[[noreturn]] void damaged(const std::filesystem::path& path, const std::string& what) {
  throw CheckpointError(concat(path.string(), " is no sound safetensors file: ", what));
}

std::int64_t natural(const nlohmann::json& value, const std::filesystem::path& path,
                     const std::string& what) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
    damaged(path, what + " is no natural number below 2^63");
  }
  return value.get<std::int64_t>();
}

struct Placed {
  SafetensorsEntry entry;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

Placed decode_entry(const std::string& name, const nlohmann::json& value, const std::filesystem::path& path) {
  const std::string what = concat("tensor '", name, "'");
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets")) {
    damaged(path, what + " needs exactly dtype, shape and data_offsets");
  }
  Placed placed;
  placed.entry.name = name;
  const auto& dtype = value["dtype"];
  const auto known = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeName& one) {
    return dtype.is_string() && dtype == std::string(one.name);
  });
  if (known == kDtypes.end()) damaged(path, what + " has a dtype other than F32, BF16, F16, I64, U8");
  placed.entry.dtype = known->dtype;
  const auto& shape = value["shape"];
  if (!shape.is_array() || shape.size() > kMaxDims)
    damaged(path, what + " has no list of at most 32 extents as shape");
  for (const auto& extent : shape)
    placed.entry.shape.push_back(natural(extent, path, "an extent of " + what));
  const auto& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) damaged(path, what + " has no pair as data_offsets");
  placed.begin = natural(offsets[0], path, "an offset of " + what);
  placed.end = natural(offsets[1], path, "an offset of " + what);
  const auto bytes = bytes_of(placed.entry);
  if (!bytes) damaged(path, what + " is larger than 2^63 bytes");
  if (placed.end < placed.begin || placed.end - placed.begin != *bytes) {
    damaged(path,
            concat(what, " needs ", *bytes, " bytes, its offsets are ", placed.begin, " to ", placed.end));
  }
  return placed;
}

std::map<std::string, std::string> decode_metadata(const nlohmann::json& value,
                                                   const std::filesystem::path& path) {
  if (!value.is_object()) damaged(path, "__metadata__ is no mapping");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) damaged(path, concat("__metadata__ '", key, "' is no text"));
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

// Header text of the file; `data_bytes` receives what follows it.
std::string read_header(std::ifstream& file, const std::filesystem::path& path, std::int64_t& data_bytes) {
  std::error_code error;
  const auto file_bytes = static_cast<std::int64_t>(std::filesystem::file_size(path, error));
  if (!file || error)
    throw CheckpointError(concat("cannot read ", path.string(), error ? ": " + error.message() : ""));
  std::uint64_t size = 0;
  if (file_bytes < kPrefixBytes || !file.read(reinterpret_cast<char*>(&size), sizeof size)) {
    damaged(path, concat("it has only ", file_bytes, " bytes"));
  }
  if (size > static_cast<std::uint64_t>(kMaxHeaderBytes))
    damaged(path, concat("its header would have ", size, " bytes"));
  data_bytes = file_bytes - kPrefixBytes - static_cast<std::int64_t>(size);
  if (data_bytes < 0) damaged(path, concat("its header of ", size, " bytes is longer than the file"));
  std::string header(size, '\0');
  if (!file.read(header.data(), static_cast<std::streamsize>(size)))
    damaged(path, "its header cannot be read");
  if (header.empty() || header[0] != '{') damaged(path, "its header does not begin with '{'");
  return header;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsEntry>& entries,
                       const std::function<at::Tensor(std::size_t index)>& tensor_of,
                       const std::map<std::string, std::string>& metadata) {
  const auto order = writing_order(entries);
  std::int64_t data_bytes = 0;
  const std::string header = encode_header(entries, order, metadata, data_bytes);
  try {
    DurableStream out(path, static_cast<std::int64_t>(header.size()) + data_bytes);
    out.write(header);
    for (const std::size_t index : order) {
      const auto& entry = entries[index];
      const at::Tensor tensor = tensor_of(index).detach();
      KUMIKO_EXPECTS(tensor.scalar_type() == entry.dtype && tensor.sizes() == at::IntArrayRef(entry.shape),
                     ShapeError, "tensor '", entry.name, "' is ", tensor.scalar_type(), tensor.sizes(),
                     ", announced as ", entry.dtype, at::IntArrayRef(entry.shape));
      out.write(bytes_of(tensor.cpu().contiguous()));
    }
    out.commit();
  } catch (const FileError& error) {
    throw CheckpointError(error.what());
  }
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::int64_t data_bytes = 0;
  const std::string header = read_header(stream, path, data_bytes);
  nlohmann::json root;
  try {
    root = parse_strict_json(header, 3);
  } catch (const std::runtime_error& error) {
    damaged(path, concat("its header: ", error.what()));
  }
  SafetensorsFile file;
  file.path_ = path;
  std::vector<Placed> placed;
  for (const auto& [name, value] : root.items()) {
    if (name == "__metadata__") {
      file.metadata_ = decode_metadata(value, path);
    } else {
      placed.push_back(decode_entry(name, value, path));
    }
  }
  std::stable_sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::int64_t position = 0;
  const std::int64_t data_start = kPrefixBytes + static_cast<std::int64_t>(header.size());
  for (auto& one : placed) {
    if (one.begin != position) {
      damaged(path,
              concat("tensor '", one.entry.name, "' begins at ", one.begin, ", ", position,
                     one.begin < position ? " was needed: tensors overlap" : " was needed: there is a hole"));
    }
    position = one.end;
    file.by_name_[one.entry.name] = file.entries_.size();
    file.offsets_.push_back(data_start + one.begin);
    file.entries_.push_back(std::move(one.entry));
  }
  if (position != data_bytes) {
    damaged(path, concat("its tensors have ", position, " bytes, the file has ", data_bytes, " for them"));
  }
  return file;
}

bool SafetensorsFile::has(std::string_view name) const { return by_name_.contains(name); }

std::size_t SafetensorsFile::index_of(std::string_view name) const {
  const auto found = by_name_.find(name);
  KUMIKO_EXPECTS(found != by_name_.end(), CheckpointError, path_.string(), " has no tensor '", name, "'");
  return found->second;
}

at::Tensor SafetensorsFile::tensor(std::string_view name) const {
  const std::size_t index = index_of(name);
  const auto& entry = entries_[index];
  at::Tensor tensor = at::empty(entry.shape, entry.dtype);
  std::ifstream file(path_, std::ios::binary);
  file.seekg(offsets_[index]);
  if (!file || (tensor.nbytes() > 0 && !file.read(static_cast<char*>(tensor.mutable_data_ptr()),
                                                  static_cast<std::streamsize>(tensor.nbytes())))) {
    damaged(path_, concat("tensor '", name, "' cannot be read; the file changed since it was opened"));
  }
  return tensor;
}

}  // namespace kumiko
