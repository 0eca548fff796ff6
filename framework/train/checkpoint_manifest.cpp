// SPDX-License-Identifier: Apache-2.0
#include "framework/train/checkpoint_manifest.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <set>

#include <nlohmann/json.hpp>

#include "framework/core/sha256.hpp"
#include "framework/train/strict_json.hpp"

namespace kumiko {
namespace {

constexpr int kMaxDepth = 6;
constexpr std::size_t kMaxDims = 32;
constexpr std::size_t kMaxNameBytes = 400;
constexpr std::string_view kFormat = "kumiko checkpoint";
constexpr std::string_view kSealBegin = ",\n\"manifest_sha256\":\"";
constexpr std::string_view kSealEnd = "\"}\n";
constexpr std::size_t kHexDigits = 64;

struct DtypeName {
  std::string_view name;
  at::ScalarType dtype;
};
constexpr std::array<DtypeName, 9> kDtypes{{{"f32", at::kFloat},
                                            {"f64", at::kDouble},
                                            {"f16", at::kHalf},
                                            {"bf16", at::kBFloat16},
                                            {"u8", at::kByte},
                                            {"i8", at::kChar},
                                            {"i32", at::kInt},
                                            {"i64", at::kLong},
                                            {"bool", at::kBool}}};

template <class Word>
void update_word(Sha256& sha, Word word) {
  std::array<std::byte, sizeof(std::uint64_t)> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(static_cast<std::uint64_t>(word) >> (8 * i));
  sha.update(bytes);
}

void update_text(Sha256& sha, std::string_view text) {
  update_word(sha, text.size());
  sha.update(text);
}

struct DigestEntry {
  std::string_view kind;
  std::span<const std::int64_t> shape;
  std::string value_sha256;
};

std::string sha256_of_word(std::uint64_t word) {
  Sha256 sha;
  update_word(sha, word);
  return sha.hex();
}

std::string hex_of(std::uint64_t word) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(word));
  return text.data();
}

std::string hex_of(std::string_view bytes) {
  return to_hex(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

// ---- decoding: every failure is a std::runtime_error without the file's name, which decode_manifest adds.

[[noreturn]] void bad(const std::string& what) { throw std::runtime_error(what); }

const nlohmann::json& member(const nlohmann::json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) bad(concat("\"", key, "\" is missing"));
  return object[key];
}

std::int64_t natural(const nlohmann::json& value, const std::string& what) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
    bad(what + " is no natural number below 2^63");
  }
  return value.get<std::int64_t>();
}

std::string text(const nlohmann::json& value, const std::string& what) {
  if (!value.is_string()) bad(what + " is no text");
  return value.get<std::string>();
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::string sha256_text(const nlohmann::json& value, const std::string& what) {
  std::string digest = text(value, what);
  if (digest.size() != kHexDigits ||
      !std::all_of(digest.begin(), digest.end(), [](char c) { return hex_digit(c) >= 0; })) {
    bad(what + " is no SHA-256");
  }
  return digest;
}

std::string bytes_from_hex(const nlohmann::json& value, const std::string& what) {
  const std::string digits = text(value, what);
  if (digits.size() % 2 != 0) bad(what + " is no hexadecimal text");
  std::string bytes;
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    const int high = hex_digit(digits[i]);
    const int low = hex_digit(digits[i + 1]);
    if (high < 0 || low < 0) bad(what + " is no hexadecimal text");
    bytes.push_back(static_cast<char>(high << 4 | low));
  }
  return bytes;
}

std::int64_t checked_bytes(at::ScalarType dtype, const std::vector<std::int64_t>& shape,
                           const std::string& what) {
  std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(dtype));
  bool empty = false;
  for (const std::int64_t extent : shape) {
    if (extent == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      bad(what + " is larger than 2^63 bytes");
    }
  }
  return empty ? 0 : bytes;
}

void decode_files(const nlohmann::json& list, Manifest& manifest) {
  if (!list.is_array()) bad("\"files\" is no list");
  std::set<std::string> seen;
  for (const auto& item : list) {
    ManifestFile file{.name = text(member(item, "name"), "a file's name")};
    const bool plain =
        !file.name.empty() && file.name.size() <= 100 && file.name[0] != '.' &&
        std::all_of(file.name.begin(), file.name.end(), [](char c) {
          return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
        });
    if (!plain || file.name == kManifestName)
      bad(concat("'", file.name, "' is no plain name of a state file"));
    if (!seen.insert(file.name).second) bad(concat("the file '", file.name, "' is there twice"));
    file.bytes = natural(member(item, "bytes"), concat("the size of '", file.name, "'"));
    file.sha256 = sha256_text(member(item, "sha256"), concat("the digest of '", file.name, "'"));
    manifest.files.push_back(std::move(file));
  }
}

void check_new_name(const Manifest& manifest, const std::string& name) {
  try {
    check_state_name(name);
  } catch (const CheckpointError& error) {
    bad(error.what());
  }
  if (manifest.has(name)) bad(concat("'", name, "' is there twice"));
}

void decode_tensors(const nlohmann::json& list, Manifest& manifest) {
  if (!list.is_object()) bad("\"tensors\" is no mapping");
  for (const auto& [name, item] : list.items()) {
    check_new_name(manifest, name);
    const std::string what = concat("tensor '", name, "'");
    ManifestTensor tensor;
    const std::string dtype = text(member(item, "dtype"), "the dtype of " + what);
    const auto known =
        std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeName& one) { return one.name == dtype; });
    if (known == kDtypes.end()) bad(concat(what, " has the unknown dtype '", dtype, "'"));
    tensor.dtype = known->dtype;
    const auto& shape = member(item, "shape");
    if (!shape.is_array() || shape.size() > kMaxDims)
      bad(what + " has no list of at most 32 extents as shape");
    for (const auto& extent : shape) tensor.shape.push_back(natural(extent, "an extent of " + what));
    tensor.bytes = checked_bytes(tensor.dtype, tensor.shape, what);
    tensor.sha256 = sha256_text(member(item, "sha256"), "the digest of " + what);
    tensor.file = static_cast<std::size_t>(natural(member(item, "file"), "the file of " + what));
    if (tensor.file >= manifest.files.size()) bad(what + " is in a file that is not listed");
    if (tensor.bytes > manifest.files[tensor.file].bytes) bad(what + " is larger than its file");
    manifest.tensors.emplace(name, std::move(tensor));
  }
}

void decode_scalars(const nlohmann::json& root, Manifest& manifest) {
  for (const auto& [name, value] : member(root, "integers").items()) {
    check_new_name(manifest, name);
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
      bad(concat("'", name, "' is no 64-bit integer"));
    }
    manifest.integers.emplace(name, value.get<std::int64_t>());
  }
  for (const auto& [name, value] : member(root, "reals").items()) {
    check_new_name(manifest, name);
    const std::string digits = text(value, name);
    std::uint64_t bits = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), bits, 16);
    if (digits.size() != 16 || error != std::errc() || end != digits.data() + digits.size()) {
      bad(concat("'", name, "' is not 16 hexadecimal digits"));
    }
    manifest.reals.emplace(name, std::bit_cast<double>(bits));
  }
  for (const auto& [name, value] : member(root, "texts").items()) {
    check_new_name(manifest, name);
    manifest.texts.emplace(
        name, value.is_object() ? bytes_from_hex(member(value, "hex"), name) : text(value, name));
  }
}

Manifest decode(const nlohmann::json& root) {
  Manifest manifest;
  manifest.step = natural(member(root, "step"), "the step");
  manifest.created = text(member(root, "created"), "\"created\"");
  manifest.meta.world_size = natural(member(root, "world_size"), "the world size");
  manifest.meta.code_version = text(member(root, "code_version"), "the code version");
  manifest.meta.recipe = text(member(root, "recipe"), "the recipe");
  if (Sha256().update(manifest.meta.recipe).hex() !=
      text(member(root, "recipe_sha256"), "the recipe's digest")) {
    bad("the recipe does not match its digest");
  }
  decode_files(member(root, "files"), manifest);
  decode_tensors(member(root, "tensors"), manifest);
  decode_scalars(root, manifest);
  if (content_digest(manifest) != text(member(root, "content_sha256"), "the content digest")) {
    bad("the content digest does not match what is listed");
  }
  return manifest;
}

bool is_utf8(const std::string& value) {
  try {
    return !nlohmann::json(value).dump().empty();
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

}  // namespace

bool Manifest::has(std::string_view name) const {
  return tensors.contains(name) || integers.contains(name) || reals.contains(name) || texts.contains(name);
}

void check_state_name(std::string_view name) {
  const bool good = !name.empty() && name.size() <= kMaxNameBytes && name != "." && name != ".." &&
                    std::all_of(name.begin(), name.end(),
                                [](char c) { return c > ' ' && c < '\x7f' && c != ':' && c != '\\'; });
  KUMIKO_EXPECTS(good, CheckpointError, "'", name, "' cannot be a name in a checkpoint");
}

std::string_view checkpoint_dtype_name(at::ScalarType dtype) {
  const auto known =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeName& one) { return one.dtype == dtype; });
  KUMIKO_EXPECTS(known != kDtypes.end(), CheckpointError, "checkpoints hold no tensors of dtype ", dtype);
  return known->name;
}

std::string content_digest(const Manifest& manifest) {
  std::map<std::string_view, DigestEntry> entries;
  for (const auto& [name, tensor] : manifest.tensors) {
    entries[name] = {checkpoint_dtype_name(tensor.dtype), tensor.shape, tensor.sha256};
  }
  for (const auto& [name, value] : manifest.integers) {
    entries[name] = {"integer", {}, sha256_of_word(static_cast<std::uint64_t>(value))};
  }
  for (const auto& [name, value] : manifest.reals)
    entries[name] = {"real", {}, sha256_of_word(std::bit_cast<std::uint64_t>(value))};
  for (const auto& [name, value] : manifest.texts) entries[name] = {"text", {}, Sha256().update(value).hex()};
  Sha256 sha;
  update_text(sha, "kumiko content 1");
  update_word(sha, manifest.step);
  for (const auto& [name, entry] : entries) {
    update_text(sha, name);
    update_text(sha, entry.kind);
    update_word(sha, entry.shape.size());
    for (const std::int64_t extent : entry.shape) update_word(sha, extent);
    sha.update(entry.value_sha256);
  }
  return sha.hex();
}

std::string encode_manifest(const Manifest& manifest) {
  nlohmann::ordered_json root;
  root["format"] = kFormat;
  root["format_version"] = kCheckpointFormatVersion;
  root["step"] = manifest.step;
  root["created"] = manifest.created;
  root["world_size"] = manifest.meta.world_size;
  root["code_version"] = manifest.meta.code_version;
  root["content_sha256"] = content_digest(manifest);
  root["recipe_sha256"] = Sha256().update(manifest.meta.recipe).hex();
  root["recipe"] = manifest.meta.recipe;
  root["files"] = nlohmann::ordered_json::array();
  for (const auto& file : manifest.files) {
    root["files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  for (const char* block : {"integers", "reals", "texts", "tensors"})
    root[block] = nlohmann::ordered_json::object();
  for (const auto& [name, value] : manifest.integers) root["integers"].push_back({name, value});
  for (const auto& [name, value] : manifest.reals)
    root["reals"].push_back({name, hex_of(std::bit_cast<std::uint64_t>(value))});
  for (const auto& [name, value] : manifest.texts) {
    root["texts"].push_back({name, is_utf8(value) ? nlohmann::ordered_json(value)
                                                  : nlohmann::ordered_json{{"hex", hex_of(value)}}});
  }
  for (const auto& [name, tensor] : manifest.tensors) {
    root["tensors"].push_back({name,
                               {{"dtype", checkpoint_dtype_name(tensor.dtype)},
                                {"shape", tensor.shape},
                                {"file", tensor.file},
                                {"sha256", tensor.sha256}}});
  }
  std::string body = root.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  body.pop_back();  // "}"
  while (body.back() == '\n') body.pop_back();
  const std::string seal = Sha256().update(body).hex();
  return body.append(kSealBegin).append(seal).append(kSealEnd);
}

Manifest decode_manifest(std::string_view text_of_file, const std::filesystem::path& file) {
  const auto damaged = [&](const std::string& what) {
    throw CheckpointError(concat(file.string(), " is damaged: ", what));
  };
  const std::size_t tail = kSealBegin.size() + kHexDigits + kSealEnd.size();
  const std::string_view body =
      text_of_file.substr(0, text_of_file.size() - std::min(tail, text_of_file.size()));
  const std::string expected = concat(kSealBegin, Sha256().update(body).hex(), kSealEnd);
  if (text_of_file.substr(body.size()) != expected) damaged("its SHA-256 is not the one at its end");
  try {
    const nlohmann::json root = parse_strict_json(text_of_file, kMaxDepth);
    if (text(member(root, "format"), "\"format\"") != kFormat) bad("it is no manifest of a checkpoint");
    const std::int64_t version = natural(member(root, "format_version"), "the format version");
    if (version > kCheckpointFormatVersion) {
      throw NewerCheckpointError(
          concat(file.parent_path().string(), " was written by a newer kumiko (checkpoint format ", version,
                 ", this build reads up to ", kCheckpointFormatVersion,
                 "); update kumiko, or move that folder away to go on from an older checkpoint"));
    }
    if (version < 1) bad(concat("the format version ", version, " does not exist"));
    return decode(root);
  } catch (const Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    damaged(error.what());
  }
  return {};
}

}  // namespace kumiko
