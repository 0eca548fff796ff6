// SPDX-License-Identifier: Apache-2.0
#include "data/byte_reader.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include <zlib.h>
#include <zstd.h>

#include "framework/core/error.hpp"

namespace kumiko::data {
namespace {

class PlainReader final : public ByteReader {
 public:
  explicit PlainReader(const std::filesystem::path& path)
      : path_(path.string()), file_(std::fopen(path.c_str(), "rbe"), std::fclose) {
    KUMIKO_EXPECTS(file_ != nullptr, DataError, "cannot open '", path_, "': ", std::strerror(errno));
  }

  std::size_t read(std::span<char> out) override {
    const std::size_t count = std::fread(out.data(), 1, out.size(), file_.get());
    KUMIKO_EXPECTS(std::ferror(file_.get()) == 0, DataError, "cannot read '", path_,
                   "': ", std::strerror(errno));
    position_ += count;
    return count;
  }

  std::uint64_t file_position() const override { return position_; }

 private:
  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::uint64_t position_ = 0;
};

// Both unpackers take packed bytes from a plain reader through one buffer.
class UnpackingReader : public ByteReader {
 public:
  explicit UnpackingReader(const std::filesystem::path& path)
      : path_(path.string()), source_(path), packed_(std::size_t{1} << 17) {}
  std::uint64_t file_position() const override { return source_.file_position() - (filled_ - used_); }

 protected:
  // False at the end of the file.
  bool refill() {
    if (used_ < filled_) return true;
    used_ = 0;
    filled_ = source_.read(packed_);
    return filled_ > 0;
  }
  [[noreturn]] void fail(const char* kind, const char* what) const {
    throw DataError(
        concat("'", path_, "' is ", what, " ", kind, " data at byte ", file_position(), " of the file"));
  }

  std::string path_;
  PlainReader source_;
  std::vector<char> packed_;
  std::size_t used_ = 0;
  std::size_t filled_ = 0;
};

class GzipReader final : public UnpackingReader {
 public:
  explicit GzipReader(const std::filesystem::path& path) : UnpackingReader(path) {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    KUMIKO_EXPECTS(inflateInit2(&stream_, kGzipOnly) == Z_OK, DataError, "cannot unpack '", path_,
                   "': zlib does not start");
  }
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;
  ~GzipReader() override { inflateEnd(&stream_); }

  std::size_t read(std::span<char> out) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(std::min<std::size_t>(out.size(), 1U << 30));
    const auto room = stream_.avail_out;
    while (stream_.avail_out == room) {
      if (!refill()) {
        if (inside_) fail("gzip", "truncated");
        return 0;
      }
      if (!inside_ && inflateReset(&stream_) != Z_OK) fail("gzip", "damaged");
      inside_ = true;
      stream_.next_in = reinterpret_cast<Bytef*>(packed_.data() + used_);
      stream_.avail_in = static_cast<uInt>(filled_ - used_);
      const int status = inflate(&stream_, Z_NO_FLUSH);
      used_ = filled_ - stream_.avail_in;
      if (status == Z_STREAM_END) {
        inside_ = false;
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        fail("gzip", "damaged");
      }
    }
    return room - stream_.avail_out;
  }

 private:
  z_stream stream_{};
  bool inside_ = false;
};

class ZstdReader final : public UnpackingReader {
 public:
  explicit ZstdReader(const std::filesystem::path& path)
      : UnpackingReader(path), stream_(ZSTD_createDStream(), ZSTD_freeDStream) {
    KUMIKO_EXPECTS(stream_ != nullptr, DataError, "cannot unpack '", path_, "': zstd does not start");
  }

  std::size_t read(std::span<char> out) override {
    ZSTD_outBuffer target{out.data(), out.size(), 0};
    while (target.pos == 0) {
      const bool more = refill();
      if (!more && !inside_) return 0;
      ZSTD_inBuffer input{packed_.data(), filled_, used_};
      const std::size_t status = ZSTD_decompressStream(stream_.get(), &target, &input);
      const bool moved = input.pos != used_ || target.pos != 0;
      used_ = input.pos;
      if (ZSTD_isError(status) != 0) fail("zstd", "damaged");
      inside_ = status != 0;
      if (!more && !moved) fail("zstd", "truncated");
    }
    return target.pos;
  }

 private:
  std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> stream_;
  bool inside_ = false;
};

}  // namespace

std::unique_ptr<ByteReader> open_byte_reader(const std::filesystem::path& path) {
  if (path.extension() == ".gz") return std::make_unique<GzipReader>(path);
  if (path.extension() == ".zst") return std::make_unique<ZstdReader>(path);
  return std::make_unique<PlainReader>(path);
}

std::filesystem::path unpacked_name(const std::filesystem::path& path) {
  const bool packed = path.extension() == ".gz" || path.extension() == ".zst";
  return packed ? path.parent_path() / path.stem() : path;
}

}  // namespace kumiko::data
