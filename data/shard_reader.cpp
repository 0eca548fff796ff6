// SPDX-License-Identifier: Apache-2.0
#include "data/shard_reader.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <limits>

#include "data/h5.hpp"
#include "framework/core/error.hpp"
#include "framework/core/sha256.hpp"

namespace kumiko::data {
namespace {

constexpr std::string_view kRemake = "; make it again with 'kumiko prepare'";
constexpr std::size_t kChunkTokens = std::size_t{1} << 20;

[[noreturn]] void fail(const std::filesystem::path& path, std::string_view problem,
                       std::string_view advice = kRemake) {
  throw DataError(concat("shard '", path.string(), "' ", problem, advice));
}

struct Header {
  std::uint32_t version = 0;
  std::uint64_t image_bytes = 0;
  std::array<std::byte, 32> image_digest{};
};

Header parse_header(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  constexpr std::string_view kHdf5 = "\x89HDF\r\n\x1a\n";
  const auto starts_with = [&](std::string_view magic) {
    const std::size_t length = std::min(magic.size(), bytes.size());
    return length > 0 && std::memcmp(bytes.data(), magic.data(), length) == 0;
  };
  if (bytes.empty()) fail(path, "is empty");
  if (!starts_with(kShardMagic)) {
    if (starts_with(kHdf5)) fail(path, "is an HDF5 file of another program, not a Kumiko shard");
    fail(path, "is not a Kumiko shard, or its first bytes are damaged");
  }
  if (bytes.size() < kShardHeaderBytes)
    fail(path, concat("is truncated: it has only ", bytes.size(), " bytes"));
  Header header;
  std::memcpy(&header.version, bytes.data() + 8, 4);
  if (header.version > kShardVersion) {
    fail(path, concat("has format version ", header.version, ", this program reads up to ", kShardVersion),
         "; use a newer Kumiko or make it again with 'kumiko prepare'");
  }
  const auto digest = Sha256().update(bytes.first(kShardHeaderDigest)).digest();
  if (!std::equal(digest.begin(), digest.end(), bytes.begin() + kShardHeaderDigest)) {
    fail(path, "is damaged: its header does not match its digest");
  }
  std::memcpy(&header.image_bytes, bytes.data() + 16, 8);
  std::memcpy(header.image_digest.data(), bytes.data() + 24, 32);
  return header;
}

// Reads the file once and throws unless every byte is as written. Returns its size.
std::int64_t verify_bytes(const std::filesystem::path& path, std::uint32_t& version) {
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    fail(path, "does not exist", "; check data.train and data.validation");
  if (!file || !std::filesystem::is_regular_file(path, error))
    fail(path, "cannot be opened", "; check its permissions");
  const auto read = [&file](std::span<std::byte> out) {
    file.read(reinterpret_cast<char*>(out.data()), static_cast<std::streamsize>(out.size()));
    return static_cast<std::size_t>(file.gcount());
  };
  std::array<std::byte, kShardHeaderBytes> start{};
  const std::size_t start_bytes = read(start);
  const Header header = parse_header(path, std::span(start).first(start_bytes));
  version = header.version;
  Sha256 digest;
  std::uint64_t size = 0;
  std::vector<std::byte> chunk(std::size_t{1} << 20);
  while (const std::size_t count = read(chunk)) {
    digest.update(std::span(chunk).first(count));
    size += count;
  }
  if (file.bad()) fail(path, "cannot be read to its end", "; check the disk");
  if (size < header.image_bytes) {
    fail(path, concat("is truncated: ", header.image_bytes - size, " of ", header.image_bytes + start.size(),
                      " bytes are missing"));
  }
  if (size > header.image_bytes)
    fail(path, concat("has ", size - header.image_bytes, " bytes behind its end"));
  if (digest.digest() != header.image_digest) fail(path, "is damaged: its bytes do not match its digest");
  return static_cast<std::int64_t>(size + start.size());
}

}  // namespace

struct ShardReader::Impl {
  ShardInfo info;
  H5File file;
  bool narrow = true;

  Impl(const std::filesystem::path& path, std::uint32_t version, std::int64_t bytes)
      : file(H5File::open(path)) {
    info.path = path;
    info.version = version;
    info.file_bytes = bytes;
  }

  void load_info();
  void check_offsets() const;
  void check_tokens() const;
  std::vector<std::int64_t> integers(std::string_view name) const;
  void read_tokens(std::int64_t first, std::span<std::int64_t> out) const;
};

void ShardReader::Impl::load_info() {
  info.vocab_size = file.integer_attribute("vocab_size");
  const std::int64_t eos = file.integer_attribute("eos_id");
  info.text_bytes = file.integer_attribute("text_bytes");
  info.split = file.text_attribute("split");
  info.tokenizer_digest = file.text_attribute("tokenizer_digest");
  info.content_digest = file.text_attribute("content_digest");
  const H5DatasetInfo& tokens = file.info("tokens");
  const H5DatasetInfo& offsets = file.info("document_offsets");
  const H5DatasetInfo& counts = file.info("token_counts");
  const H5DatasetInfo& tokenizer = file.info("tokenizer");
  narrow = tokens.dtype == H5Dtype::u16;
  const bool good = info.vocab_size > 0 && info.vocab_size <= kMaxVocabSize && eos >= 0 &&
                    eos < info.vocab_size && (narrow || tokens.dtype == H5Dtype::u32) &&
                    tokens.dims.size() == 1 && offsets.dtype == H5Dtype::i64 && offsets.dims.size() == 1 &&
                    offsets.numel >= 1 && counts.dtype == H5Dtype::i64 && counts.dims.size() == 1 &&
                    counts.numel == info.vocab_size && tokenizer.dtype == H5Dtype::u8 &&
                    tokenizer.dims.size() == 1;
  if (!good) fail(info.path, "does not have the tables of a shard");
  info.eos_id = static_cast<std::int32_t>(eos);
  info.tokens = tokens.numel;
  info.documents = offsets.numel - 1;
}

std::vector<std::int64_t> ShardReader::Impl::integers(std::string_view name) const {
  std::vector<std::int64_t> values(static_cast<std::size_t>(file.info(name).numel));
  file.read(name, values.data(), values.size() * sizeof(std::int64_t));
  return values;
}

void ShardReader::Impl::check_offsets() const {
  const std::vector<std::int64_t> offsets = integers("document_offsets");
  // Each document has at least one token and its EOS.
  bool good = offsets.front() == 0 && offsets.back() == info.tokens;
  for (std::size_t i = 1; i < offsets.size(); ++i) good = good && offsets[i] >= offsets[i - 1] + 2;
  if (!good) fail(info.path, "has document borders that do not fit its tokens");
}

void ShardReader::Impl::read_tokens(std::int64_t first, std::span<std::int64_t> out) const {
  const auto copy = [&]<class T>(std::vector<T> buffer) {
    buffer.resize(out.size());
    file.read_rows("tokens", first, static_cast<std::int64_t>(out.size()), buffer.data());
    std::copy(buffer.begin(), buffer.end(), out.begin());
  };
  if (narrow) {
    copy(std::vector<std::uint16_t>());
  } else {
    copy(std::vector<std::uint32_t>());
  }
}

void ShardReader::Impl::check_tokens() const {
  std::vector<std::int64_t> chunk(kChunkTokens);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(info.vocab_size));
  for (std::int64_t first = 0; first < info.tokens; first += static_cast<std::int64_t>(chunk.size())) {
    const auto part = std::span(chunk).first(
        std::min<std::size_t>(chunk.size(), static_cast<std::size_t>(info.tokens - first)));
    read_tokens(first, part);
    for (std::size_t i = 0; i < part.size(); ++i) {
      if (part[i] >= info.vocab_size) {
        fail(info.path,
             concat("has token id ", part[i], " at position ", first + static_cast<std::int64_t>(i),
                    ", beyond its vocabulary of ", info.vocab_size));
      }
      ++counts[static_cast<std::size_t>(part[i])];
    }
  }
  if (counts != integers("token_counts")) fail(info.path, "has token counts that do not fit its tokens");
}

ShardReader::ShardReader(const std::filesystem::path& path) {
  std::uint32_t version = 0;
  const std::int64_t bytes = verify_bytes(path, version);
  try {
    impl_ = std::make_unique<Impl>(path, version, bytes);
    impl_->load_info();
    impl_->check_offsets();
    impl_->check_tokens();
  } catch (const H5Error& error) {
    fail(path, concat("cannot be used: ", error.what()));
  }
}

ShardReader::ShardReader(ShardReader&&) noexcept = default;
ShardReader& ShardReader::operator=(ShardReader&&) noexcept = default;
ShardReader::~ShardReader() = default;

const ShardInfo& ShardReader::info() const noexcept { return impl_->info; }

std::vector<std::int64_t> ShardReader::token_counts() const { return impl_->integers("token_counts"); }

std::vector<std::int64_t> ShardReader::document_offsets() const {
  return impl_->integers("document_offsets");
}

Tokenizer ShardReader::tokenizer() const {
  std::string model(static_cast<std::size_t>(impl_->file.info("tokenizer").bytes), '\0');
  impl_->file.read("tokenizer", model.data(), model.size());
  Tokenizer tokenizer = Tokenizer::from_bytes(std::move(model), info().path.string());
  if (tokenizer.digest() != info().tokenizer_digest || tokenizer.vocab_size() != info().vocab_size) {
    fail(info().path, "holds another tokenizer than it was made with");
  }
  return tokenizer;
}

void ShardReader::read(std::int64_t first, std::span<std::int64_t> out) const {
  try {
    impl_->read_tokens(first, out);
  } catch (const H5Error& error) {
    fail(info().path, concat("cannot be read any more: ", error.what()), "; was it changed during the run?");
  }
}

bool looks_like_shard(const std::filesystem::path& path) noexcept {
  try {
    std::ifstream file(path, std::ios::binary);
    std::array<char, kShardMagic.size()> start{};
    file.read(start.data(), start.size());
    return file.gcount() == static_cast<std::streamsize>(start.size()) &&
           std::string_view(start.data(), start.size()) == kShardMagic;
  } catch (...) {
    return false;
  }
}

}  // namespace kumiko::data
