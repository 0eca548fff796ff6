// SPDX-License-Identifier: Apache-2.0
// Our own HDF5 files, trusted only as far as checked: plain contiguous datasets behind hard links, nothing
// else. Safe to call from several threads (one lock serves the HDF5 library; data of files on disk are read
// without it).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace kumiko::data {

// Neutral: callers turn it into DataError or CheckpointError. The message names the dataset and, where known,
// the file.
class H5Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// bf16 is stored as unsigned 16-bit words marked by an attribute; the others are HDF5's own little-endian
// types.
enum class H5Dtype { u8, i8, u16, u32, i32, i64, f16, bf16, f32, f64 };

std::size_t byte_size(H5Dtype dtype) noexcept;
std::string_view name_of(H5Dtype dtype) noexcept;

struct H5DatasetInfo {
  H5Dtype dtype = H5Dtype::u8;
  std::vector<std::int64_t> dims;
  std::int64_t numel = 0;  // bounded by the size of the file
  std::int64_t bytes = 0;
};

// Builds a file in memory. HDF5 never touches the disk: it neither syncs nor survives a full one.
// The image depends only on the calls made, not on time or machine.
class H5ImageWriter {
 public:
  H5ImageWriter();
  H5ImageWriter(H5ImageWriter&&) noexcept;
  H5ImageWriter& operator=(H5ImageWriter&&) noexcept;
  ~H5ImageWriter();

  // `name` is a path ("optimizer/model.norm.weight/exp_avg"); its groups are made. dims {} is a scalar.
  // `data` may be null when there is no element. Throws H5Error for a name that exists, is empty, or has
  // empty, "." or ".." parts.
  void dataset(std::string_view name, const void* data, H5Dtype dtype, std::span<const std::int64_t> dims);

  // Attributes of the file. A text has at most 60000 bytes and no NUL; longer ones belong in a u8 dataset.
  void attribute(std::string_view name, std::int64_t value);
  void attribute(std::string_view name, double value);
  void attribute(std::string_view name, std::string_view value);

  // The bytes of the file. The writer is empty afterwards.
  std::vector<std::byte> finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Opening walks the whole file and refuses what we never write: soft and external links, external or virtual
// storage, chunks, filters, other types, more than 32 dimensions, sizes beyond the file. So later reads
// cannot leave the file or allocate more than it holds. A damaged file can still hold wrong numbers: digests
// are the caller's.
class H5File {
 public:
  static H5File open(const std::filesystem::path& path);  // throws H5Error
  // Copies the image. `origin` stands for the file in messages.
  static H5File open_image(std::span<const std::byte> image, const std::string& origin = "HDF5 image");
  H5File(H5File&&) noexcept;
  H5File& operator=(H5File&&) noexcept;
  ~H5File();

  std::vector<std::string> dataset_names() const;  // full paths without a leading '/', sorted
  bool has(std::string_view name) const;
  const H5DatasetInfo& info(std::string_view name) const;

  // Reads a whole dataset; `bytes` is the room at `out` and must equal info(name).bytes.
  void read(std::string_view name, void* out, std::size_t bytes) const;
  // Reads elements [first, first + count) of a dataset of one dimension.
  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, void* out) const;

  // Attributes of the file. A missing one or one of another kind throws H5Error.
  bool has_attribute(std::string_view name) const;
  std::int64_t integer_attribute(std::string_view name) const;
  double real_attribute(std::string_view name) const;
  std::string text_attribute(std::string_view name) const;

 private:
  struct Impl;
  explicit H5File(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kumiko::data
