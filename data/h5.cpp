// SPDX-License-Identifier: Apache-2.0
#include "data/h5.hpp"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include "framework/core/error.hpp"

namespace kumiko::data {
namespace {

constexpr std::size_t kMaxTextBytes = 60000;  // an attribute lives in an object header of at most 64 KiB
constexpr std::size_t kMaxNameBytes = 1024;   // also bounds the depth of groups
constexpr const char* kDtypeMark = "dtype";
constexpr const char* kBf16Mark = "bf16";

// One call into HDF5 at a time, and HDF5 prints nothing. Its error stack, and so its printing, is per thread.
class Session {
 public:
  Session() : lock_(mutex()) {
    static const bool plugins_off = H5open() >= 0 && H5PLset_loading_state(0) >= 0;
    if (!plugins_off) throw H5Error("the HDF5 library does not start");
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }

 private:
  static std::recursive_mutex& mutex() {
    static std::recursive_mutex instance;
    return instance;
  }
  std::lock_guard<std::recursive_mutex> lock_;
};

class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close close, const std::string& what) : id_(id), close_(close) {
    if (id_ < 0) throw H5Error("HDF5 cannot " + what);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  hid_t get() const noexcept { return id_; }
  void close(const std::string& what) {
    if (close_(std::exchange(id_, -1)) < 0) throw H5Error("HDF5 cannot " + what);
  }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

void require(bool good, const std::string& what) {
  if (!good) throw H5Error("HDF5 cannot " + what);
}

// HDF5 takes two files in memory for one when their names agree.
std::string unique_image_name() {
  static std::atomic<std::uint64_t> next{0};
  return concat("kumiko-image-", static_cast<const void*>(&next), "-", next++);
}

Handle f16_type() {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, "make a type");
  require(H5Tset_fields(type.get(), 15, 10, 5, 0, 10) >= 0 && H5Tset_size(type.get(), 2) >= 0 &&
              H5Tset_ebias(type.get(), 15) >= 0,
          "make a type");
  return type;
}

Handle file_type(H5Dtype dtype) {
  const auto copy = [](hid_t type) { return Handle(H5Tcopy(type), H5Tclose, "make a type"); };
  switch (dtype) {
    case H5Dtype::u8:
      return copy(H5T_STD_U8LE);
    case H5Dtype::i8:
      return copy(H5T_STD_I8LE);
    case H5Dtype::u16:
    case H5Dtype::bf16:
      return copy(H5T_STD_U16LE);
    case H5Dtype::u32:
      return copy(H5T_STD_U32LE);
    case H5Dtype::i32:
      return copy(H5T_STD_I32LE);
    case H5Dtype::i64:
      return copy(H5T_STD_I64LE);
    case H5Dtype::f16:
      return f16_type();
    case H5Dtype::f32:
      return copy(H5T_IEEE_F32LE);
    case H5Dtype::f64:
      return copy(H5T_IEEE_F64LE);
  }
  throw H5Error("unknown element type");
}

Handle text_type(std::size_t bytes) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose, "make a type");
  require(H5Tset_size(type.get(), std::max<std::size_t>(bytes, 1)) >= 0 &&
              H5Tset_strpad(type.get(), H5T_STR_NULLPAD) >= 0 && H5Tset_cset(type.get(), H5T_CSET_UTF8) >= 0,
          "make a type");
  return type;
}

void write_attribute(hid_t object, const std::string& name, const Handle& type, const void* value) {
  const std::string what = "write attribute '" + name + "'";
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose, what);
  Handle attribute(H5Acreate2(object, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
                   H5Aclose, what);
  require(H5Awrite(attribute.get(), type.get(), value) >= 0, what);
  attribute.close(what);
}

void write_text_attribute(hid_t object, const std::string& name, std::string_view value) {
  if (value.size() > kMaxTextBytes || value.find('\0') != std::string_view::npos) {
    throw H5Error(concat("attribute '", name, "' has ", value.size(), " bytes or a NUL; at most ",
                         kMaxTextBytes, " bytes without NUL are stored"));
  }
  const std::string padded = value.empty() ? std::string(1, '\0') : std::string(value);
  write_attribute(object, name, text_type(padded.size()), padded.data());
}

std::string read_text(hid_t attribute, const std::string& what) {
  const Handle type(H5Aget_type(attribute), H5Tclose, what);
  const Handle space(H5Aget_space(attribute), H5Sclose, what);
  const std::size_t size = H5Tget_size(type.get());
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0 || size > kMaxTextBytes ||
      H5Sget_simple_extent_type(space.get()) != H5S_SCALAR) {
    throw H5Error("HDF5 cannot " + what + ": it is not a text of fixed length");
  }
  std::string value(size, '\0');
  const Handle memory = text_type(size);
  require(H5Aread(attribute, memory.get(), value.data()) >= 0, what);
  value.resize(value.find_last_not_of('\0') + 1);
  return value;
}

void check_name(std::string_view name) {
  bool good = !name.empty() && name.size() <= kMaxNameBytes && name.find('\0') == std::string_view::npos;
  for (std::size_t begin = 0; good && begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    good = !part.empty() && part != "." && part != "..";
    begin = end + 1;
  }
  if (!good) throw H5Error(concat("'", name, "' cannot be the name of a dataset"));
}

}  // namespace

std::size_t byte_size(H5Dtype dtype) noexcept {
  switch (dtype) {
    case H5Dtype::u8:
    case H5Dtype::i8:
      return 1;
    case H5Dtype::u16:
    case H5Dtype::f16:
    case H5Dtype::bf16:
      return 2;
    case H5Dtype::u32:
    case H5Dtype::i32:
    case H5Dtype::f32:
      return 4;
    case H5Dtype::i64:
    case H5Dtype::f64:
      return 8;
  }
  return 0;
}

std::string_view name_of(H5Dtype dtype) noexcept {
  constexpr std::string_view kNames[] = {"u8", "i8", "u16", "u32", "i32", "i64", "f16", "bf16", "f32", "f64"};
  return kNames[static_cast<std::size_t>(dtype)];
}

struct H5ImageWriter::Impl {
  Handle file;
  Handle with_groups;
  Handle create;

  Impl() {
    const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "start a file in memory");
    require(H5Pset_fapl_core(access.get(), std::size_t{4} << 20, 0) >= 0, "start a file in memory");
    file = Handle(H5Fcreate(unique_image_name().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose,
                  "start a file in memory");
    with_groups = Handle(H5Pcreate(H5P_LINK_CREATE), H5Pclose, "start a file in memory");
    require(H5Pset_create_intermediate_group(with_groups.get(), 1) >= 0, "start a file in memory");
    create = Handle(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "start a file in memory");
    require(H5Pset_obj_track_times(create.get(), false) >= 0 &&
                H5Pset_alloc_time(create.get(), H5D_ALLOC_TIME_EARLY) >= 0 &&
                H5Pset_fill_time(create.get(), H5D_FILL_TIME_NEVER) >= 0,
            "start a file in memory");
  }
  ~Impl() {
    const Session session;
    create = Handle();
    with_groups = Handle();
    Handle(std::move(file));
  }
};

H5ImageWriter::H5ImageWriter() {
  const Session session;
  impl_ = std::make_unique<Impl>();
}
H5ImageWriter::H5ImageWriter(H5ImageWriter&&) noexcept = default;
H5ImageWriter& H5ImageWriter::operator=(H5ImageWriter&&) noexcept = default;
H5ImageWriter::~H5ImageWriter() = default;

void H5ImageWriter::dataset(std::string_view name, const void* data, H5Dtype dtype,
                            std::span<const std::int64_t> dims) {
  const Session session;
  check_name(name);
  const std::string path(name);
  const std::string what = "write dataset '" + path + "'";
  std::vector<hsize_t> extent(dims.begin(), dims.end());
  bool empty = false;
  for (const hsize_t dim : extent) empty = empty || dim == 0;
  const Handle space(extent.empty()
                         ? H5Screate(H5S_SCALAR)
                         : H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr),
                     H5Sclose, what);
  const Handle type = file_type(dtype);
  Handle dataset(H5Dcreate2(impl_->file.get(), path.c_str(), type.get(), space.get(),
                            impl_->with_groups.get(), impl_->create.get(), H5P_DEFAULT),
                 H5Dclose, what + ": is the name in use?");
  if (dtype == H5Dtype::bf16) write_text_attribute(dataset.get(), kDtypeMark, kBf16Mark);
  if (!empty) require(H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0, what);
  dataset.close(what);
}

void H5ImageWriter::attribute(std::string_view name, std::int64_t value) {
  const Session session;
  write_attribute(impl_->file.get(), std::string(name), file_type(H5Dtype::i64), &value);
}

void H5ImageWriter::attribute(std::string_view name, double value) {
  const Session session;
  write_attribute(impl_->file.get(), std::string(name), file_type(H5Dtype::f64), &value);
}

void H5ImageWriter::attribute(std::string_view name, std::string_view value) {
  const Session session;
  write_text_attribute(impl_->file.get(), std::string(name), value);
}

std::vector<std::byte> H5ImageWriter::finish() {
  const Session session;
  const std::unique_ptr<Impl> impl = std::exchange(impl_, nullptr);
  require(H5Fflush(impl->file.get(), H5F_SCOPE_LOCAL) >= 0, "finish a file in memory");
  const ssize_t size = H5Fget_file_image(impl->file.get(), nullptr, 0);
  require(size > 0, "finish a file in memory");
  std::vector<std::byte> image(static_cast<std::size_t>(size));
  require(H5Fget_file_image(impl->file.get(), image.data(), image.size()) == size, "finish a file in memory");
  impl->file.close("finish a file in memory");
  return image;
}

struct H5File::Impl {
  struct Dataset {
    Handle handle;
    H5DatasetInfo info;
    std::uint64_t offset = 0;  // of the first element in the file
  };
  std::string origin;
  std::uint64_t file_bytes = 0;
  int descriptor = -1;  // of a file on disk
  Handle file;
  std::map<std::string, Dataset, std::less<>> datasets;

  ~Impl() {
    const Session session;
    datasets.clear();
    Handle(std::move(file));
    if (descriptor >= 0) ::close(descriptor);
  }

  [[noreturn]] void fail(const std::string& message) const {
    throw H5Error(concat("'", origin, "': ", message));
  }
  void load_tree();
  void add_dataset(const std::string& name);
  H5DatasetInfo examine(const std::string& name, hid_t dataset) const;
  H5Dtype dtype_of(const std::string& name, hid_t dataset) const;
  const Dataset& find(std::string_view name) const;
  void read_bytes(std::string_view name, std::uint64_t offset, void* out, std::size_t bytes) const;
  Handle open_attribute(std::string_view name) const;
};

namespace {

struct Walk {
  std::vector<std::string> names;
  std::string refusal;
};

herr_t visit_link(hid_t, const char* name, const H5L_info_t* link, void* data) noexcept {
  auto& walk = *static_cast<Walk*>(data);
  try {
    if (link->type != H5L_TYPE_HARD) {
      walk.refusal = concat("'", name, "' is a soft or external link, which we never write");
    } else if (std::strlen(name) > kMaxNameBytes || walk.names.size() >= (std::size_t{1} << 20)) {
      walk.refusal = "it has names or numbers of objects that we never write";
    } else {
      walk.names.emplace_back(name);
    }
  } catch (const std::exception& error) {
    return -1;
  }
  return walk.refusal.empty() ? 0 : -1;
}

}  // namespace

void H5File::Impl::load_tree() {
  Walk walk;
  const bool walked = H5Lvisit(file.get(), H5_INDEX_NAME, H5_ITER_NATIVE, visit_link, &walk) >= 0;
  if (!walk.refusal.empty()) fail(walk.refusal);
  if (!walked) fail("its table of contents is damaged");
  for (const std::string& name : walk.names) add_dataset(name);
}

void H5File::Impl::add_dataset(const std::string& name) {
  Handle object(H5Oopen(file.get(), name.c_str(), H5P_DEFAULT), H5Oclose,
                concat("open '", name, "' of '", origin, "'"));
  const H5I_type_t kind = H5Iget_type(object.get());
  if (kind == H5I_GROUP) return;
  if (kind != H5I_DATASET) fail(concat("'", name, "' is neither a group nor a dataset"));
  H5DatasetInfo info = examine(name, object.get());
  const std::uint64_t offset = info.bytes > 0 ? H5Dget_offset(object.get()) : 0;
  datasets.emplace(name, Dataset{std::move(object), std::move(info), offset});
}

// Not through HDF5: it gives zeros for what is missing behind the end of a file that was cut while it is
// open.
void H5File::Impl::read_bytes(std::string_view name, std::uint64_t offset, void* out,
                              std::size_t bytes) const {
  constexpr std::size_t kMost = std::size_t{1} << 30;
  auto* to = static_cast<std::byte*>(out);
  while (bytes > 0) {
    const ssize_t count = ::pread(descriptor, to, std::min(bytes, kMost), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(concat("dataset '", name, "' cannot be read: ", std::strerror(errno)));
    if (count == 0) fail(concat("dataset '", name, "' cannot be read: the file ends too early"));
    to += count;
    offset += static_cast<std::uint64_t>(count);
    bytes -= static_cast<std::size_t>(count);
  }
}

H5Dtype H5File::Impl::dtype_of(const std::string& name, hid_t dataset) const {
  const Handle stored(H5Dget_type(dataset), H5Tclose, "read the type of '" + name + "'");
  constexpr H5Dtype kPlain[] = {H5Dtype::u8,  H5Dtype::i8,  H5Dtype::u16, H5Dtype::u32, H5Dtype::i32,
                                H5Dtype::i64, H5Dtype::f16, H5Dtype::f32, H5Dtype::f64};
  for (const H5Dtype dtype : kPlain) {
    const Handle candidate = file_type(dtype);
    if (H5Tequal(stored.get(), candidate.get()) <= 0) continue;
    if (dtype != H5Dtype::u16 || H5Aexists(dataset, kDtypeMark) <= 0) return dtype;
    const std::string what = "read the type mark of '" + name + "'";
    const Handle mark(H5Aopen(dataset, kDtypeMark, H5P_DEFAULT), H5Aclose, what);
    if (read_text(mark.get(), what) == kBf16Mark) return H5Dtype::bf16;
    break;
  }
  fail(concat("dataset '", name, "' has an element type that we never write"));
}

H5DatasetInfo H5File::Impl::examine(const std::string& name, hid_t dataset) const {
  const std::string what = concat("examine '", name, "' of '", origin, "'");
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose, what);
  if (H5Pget_layout(properties.get()) != H5D_CONTIGUOUS || H5Pget_external_count(properties.get()) != 0 ||
      H5Pget_nfilters(properties.get()) != 0) {
    fail(concat("dataset '", name,
                "' is chunked, filtered, virtual or stored in another file, which we never write"));
  }
  H5DatasetInfo info;
  info.dtype = dtype_of(name, dataset);
  const Handle space(H5Dget_space(dataset), H5Sclose, what);
  const H5S_class_t kind = H5Sget_simple_extent_type(space.get());
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if ((kind != H5S_SIMPLE && kind != H5S_SCALAR) || rank < 0 || rank > 32)
    fail(concat("dataset '", name, "' has no plain shape"));
  std::vector<hsize_t> extent(static_cast<std::size_t>(rank));
  require(rank == 0 || H5Sget_simple_extent_dims(space.get(), extent.data(), nullptr) == rank, what);
  std::uint64_t bytes = byte_size(info.dtype);
  bool fits = true;
  for (const hsize_t dim : extent) {
    fits =
        fits && dim <= file_bytes && !__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dim), &bytes);
  }
  const haddr_t offset = H5Dget_offset(dataset);
  if (fits && bytes > 0) fits = offset != HADDR_UNDEF && bytes <= file_bytes && offset <= file_bytes - bytes;
  if (!fits) fail(concat("dataset '", name, "' claims more bytes than the file holds"));
  info.dims.assign(extent.begin(), extent.end());
  info.bytes = static_cast<std::int64_t>(bytes);
  info.numel = info.bytes / static_cast<std::int64_t>(byte_size(info.dtype));
  return info;
}

const H5File::Impl::Dataset& H5File::Impl::find(std::string_view name) const {
  const auto found = datasets.find(name);
  if (found == datasets.end()) fail(concat("dataset '", name, "' is missing"));
  return found->second;
}

Handle H5File::Impl::open_attribute(std::string_view name) const {
  if (H5Aexists(file.get(), std::string(name).c_str()) <= 0)
    fail(concat("attribute '", name, "' is missing"));
  return Handle(H5Aopen(file.get(), std::string(name).c_str(), H5P_DEFAULT), H5Aclose,
                concat("open attribute '", name, "' of '", origin, "'"));
}

H5File::H5File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
H5File::H5File(H5File&&) noexcept = default;
H5File& H5File::operator=(H5File&&) noexcept = default;
H5File::~H5File() = default;

H5File H5File::open(const std::filesystem::path& path) {
  const Session session;
  auto impl = std::make_unique<Impl>();
  impl->origin = path.string();
  std::error_code status;
  impl->file_bytes = std::filesystem::file_size(path, status);
  if (status) impl->fail("cannot be opened: " + status.message());
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "open a file");
  require(H5Pset_file_locking(access.get(), false, true) >= 0, "open a file");
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (file < 0) impl->fail("is no HDF5 file, or it is truncated or damaged");
  impl->file = Handle(file, H5Fclose, "open a file");
  impl->load_tree();
  impl->descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (impl->descriptor < 0) impl->fail(concat("cannot be opened: ", std::strerror(errno)));
  return H5File(std::move(impl));
}

H5File H5File::open_image(std::span<const std::byte> image, const std::string& origin) {
  const Session session;
  auto impl = std::make_unique<Impl>();
  impl->origin = origin;
  impl->file_bytes = image.size();
  if (image.empty()) impl->fail("is empty");
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "open an image");
  std::vector<std::byte> copy(image.begin(), image.end());  // HDF5 takes a pointer to non-const
  require(H5Pset_fapl_core(access.get(), std::size_t{1} << 20, 0) >= 0 &&
              H5Pset_file_image(access.get(), copy.data(), copy.size()) >= 0,
          "open an image");
  const hid_t file = H5Fopen(unique_image_name().c_str(), H5F_ACC_RDONLY, access.get());
  if (file < 0) impl->fail("is no HDF5 file, or it is truncated or damaged");
  impl->file = Handle(file, H5Fclose, "open an image");
  impl->load_tree();
  return H5File(std::move(impl));
}

std::vector<std::string> H5File::dataset_names() const {
  std::vector<std::string> names;
  for (const auto& [name, dataset] : impl_->datasets) names.push_back(name);
  return names;
}

bool H5File::has(std::string_view name) const { return impl_->datasets.contains(name); }

const H5DatasetInfo& H5File::info(std::string_view name) const { return impl_->find(name).info; }

void H5File::read(std::string_view name, void* out, std::size_t bytes) const {
  const auto& dataset = impl_->find(name);
  if (bytes != static_cast<std::size_t>(dataset.info.bytes)) {
    impl_->fail(
        concat("dataset '", name, "' has ", dataset.info.bytes, " bytes, ", bytes, " were asked for"));
  }
  if (bytes == 0) return;
  if (impl_->descriptor >= 0) return impl_->read_bytes(name, dataset.offset, out, bytes);
  const Session session;
  const Handle type = file_type(dataset.info.dtype);
  if (H5Dread(dataset.handle.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0) {
    impl_->fail(concat("dataset '", name, "' cannot be read"));
  }
}

void H5File::read_rows(std::string_view name, std::int64_t first, std::int64_t count, void* out) const {
  const auto& dataset = impl_->find(name);
  if (dataset.info.dims.size() != 1 || first < 0 || count < 0 || first > dataset.info.numel - count) {
    impl_->fail(concat("dataset '", name, "' has no elements ", first, " to ", first + count));
  }
  if (count == 0) return;
  if (impl_->descriptor >= 0) {
    const std::size_t width = byte_size(dataset.info.dtype);
    return impl_->read_bytes(name, dataset.offset + static_cast<std::uint64_t>(first) * width, out,
                             static_cast<std::size_t>(count) * width);
  }
  const Session session;
  const auto start = static_cast<hsize_t>(first);
  const auto length = static_cast<hsize_t>(count);
  const Handle source(H5Dget_space(dataset.handle.get()), H5Sclose, "read rows");
  const Handle target(H5Screate_simple(1, &length, nullptr), H5Sclose, "read rows");
  const Handle type = file_type(dataset.info.dtype);
  require(H5Sselect_hyperslab(source.get(), H5S_SELECT_SET, &start, nullptr, &length, nullptr) >= 0,
          "read rows");
  if (H5Dread(dataset.handle.get(), type.get(), target.get(), source.get(), H5P_DEFAULT, out) < 0) {
    impl_->fail(concat("dataset '", name, "' cannot be read"));
  }
}

bool H5File::has_attribute(std::string_view name) const {
  const Session session;
  return H5Aexists(impl_->file.get(), std::string(name).c_str()) > 0;
}

namespace {

// True when the attribute is a scalar of exactly this type and has been read.
bool read_scalar(hid_t attribute, H5Dtype dtype, void* out) {
  const Handle stored(H5Aget_type(attribute), H5Tclose, "read an attribute");
  const Handle space(H5Aget_space(attribute), H5Sclose, "read an attribute");
  const Handle type = file_type(dtype);
  return H5Tequal(stored.get(), type.get()) > 0 && H5Sget_simple_extent_type(space.get()) == H5S_SCALAR &&
         H5Aread(attribute, type.get(), out) >= 0;
}

}  // namespace

std::int64_t H5File::integer_attribute(std::string_view name) const {
  const Session session;
  const Handle attribute = impl_->open_attribute(name);
  std::int64_t value = 0;
  if (!read_scalar(attribute.get(), H5Dtype::i64, &value))
    impl_->fail(concat("attribute '", name, "' is no 64-bit integer"));
  return value;
}

double H5File::real_attribute(std::string_view name) const {
  const Session session;
  const Handle attribute = impl_->open_attribute(name);
  double value = 0;
  if (!read_scalar(attribute.get(), H5Dtype::f64, &value))
    impl_->fail(concat("attribute '", name, "' is no 64-bit real"));
  return value;
}

std::string H5File::text_attribute(std::string_view name) const {
  const Session session;
  const Handle attribute = impl_->open_attribute(name);
  return read_text(attribute.get(), concat("read attribute '", name, "' of '", impl_->origin, "'"));
}

}  // namespace kumiko::data
