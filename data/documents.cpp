// SPDX-License-Identifier: Apache-2.0
#include "data/documents.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "data/byte_reader.hpp"
#include "data/json_field.hpp"
#include "data/utf8.hpp"
#include "framework/core/error.hpp"
#include "framework/core/format.hpp"

namespace kumiko::data {
namespace {

namespace fs = std::filesystem;

bool is_jsonl(const fs::path& path) {
  const std::string suffix = unpacked_name(path).extension().string();
  return suffix == ".jsonl" || suffix == ".ndjson";
}

bool has_suffix(const fs::path& path, const std::vector<std::string>& suffixes) {
  const std::string name = path.filename().string();
  const std::string unpacked = unpacked_name(path).filename().string();
  return std::any_of(suffixes.begin(), suffixes.end(), [&](const std::string& suffix) {
    return name.ends_with(suffix) || unpacked.ends_with(suffix);
  });
}

void add_folder(const fs::path& folder, const std::vector<std::string>& suffixes,
                std::vector<fs::path>& files) {
  std::vector<fs::path> found;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (entry->path().filename().string().starts_with(".")) {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file(error) && has_suffix(entry->path(), suffixes)) {
      found.push_back(entry->path());
    }
  }
  KUMIKO_EXPECTS(!error, DataError, "cannot list folder '", folder.string(), "': ", error.message());
  std::string known;
  for (const std::string& suffix : suffixes) known += (known.empty() ? "" : ", ") + suffix;
  KUMIKO_EXPECTS(!found.empty(), DataError, "folder '", folder.string(), "' has no file that ends in ", known,
                 "; name other endings with --suffix");
  std::sort(found.begin(), found.end());
  files.insert(files.end(), found.begin(), found.end());
}

std::vector<fs::path> list_files(const DocumentOptions& options) {
  KUMIKO_EXPECTS(!options.inputs.empty(), DataError, "no input: name at least one file or folder");
  std::vector<fs::path> files;
  for (const fs::path& input : options.inputs) {
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    KUMIKO_EXPECTS(fs::exists(status), DataError, "input '", input.string(), "' does not exist");
    if (fs::is_directory(status)) {
      add_folder(input, options.suffixes.empty() ? kDefaultSuffixes : options.suffixes, files);
    } else {
      files.push_back(input);
    }
  }
  return files;
}

// Cuts a file into lines without holding more than one of them.
class LineReader {
 public:
  LineReader(const fs::path& path, std::int64_t max_bytes)
      : bytes_(open_byte_reader(path)),
        max_bytes_(static_cast<std::size_t>(max_bytes)),
        buffer_(std::size_t{1} << 18) {}

  enum class Status { line, too_long, end };

  // `line` keeps its line end. An over-long line is read to its end and dropped.
  Status next(std::string& line) {
    line.clear();
    bool too_long = false;
    bool any = false;
    while (used_ < filled_ || refill()) {
      any = true;
      const std::string_view rest(buffer_.data() + used_, filled_ - used_);
      const std::size_t end = rest.find('\n');
      const std::size_t taken = end == std::string_view::npos ? rest.size() : end + 1;
      too_long = too_long || line.size() + taken > max_bytes_;
      if (!too_long) line.append(rest.substr(0, taken));
      used_ += taken;
      position_ += taken;
      if (end != std::string_view::npos) break;
    }
    if (!any) return Status::end;
    ++number_;
    return too_long ? Status::too_long : Status::line;
  }

  // The rest of the file as one text; nothing when it is over the limit.
  bool rest(std::string& text) {
    text.clear();
    while (used_ < filled_ || refill()) {
      if (text.size() + filled_ - used_ > max_bytes_) return false;
      text.append(buffer_.data() + used_, filled_ - used_);
      used_ = filled_;
    }
    return true;
  }

  std::int64_t number() const noexcept { return number_; }       // of the last line, from 1
  std::uint64_t position() const noexcept { return position_; }  // unpacked bytes up to its end
  std::uint64_t file_position() const { return bytes_->file_position(); }

 private:
  bool refill() {
    used_ = 0;
    filled_ = bytes_->read(buffer_);
    return filled_ > 0;
  }

  std::unique_ptr<ByteReader> bytes_;
  std::size_t max_bytes_;
  std::vector<char> buffer_;
  std::size_t used_ = 0;
  std::size_t filled_ = 0;
  std::int64_t number_ = 0;
  std::uint64_t position_ = 0;
};

void strip_line_end(std::string& line) {
  if (line.ends_with('\n')) line.pop_back();
  if (line.ends_with('\r')) line.pop_back();
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\n") == std::string_view::npos; }

}  // namespace

struct DocumentStream::Impl {
  DocumentOptions options;
  std::vector<fs::path> files;
  std::int64_t total = 0;
  std::int64_t read_before = 0;
  std::int64_t skipped = 0;
  std::size_t next_file = 0;
  std::optional<LineReader> reader;
  bool whole_file_done = false;

  explicit Impl(DocumentOptions given) : options(std::move(given)), files(list_files(options)) {
    for (const fs::path& file : files) total += size_of(file);
  }

  static std::int64_t size_of(const fs::path& file) {
    std::error_code error;
    const auto size = fs::file_size(file, error);
    return error ? 0 : static_cast<std::int64_t>(size);
  }

  const fs::path& file() const { return files[next_file - 1]; }

  bool open_next() {
    if (next_file > 0 && next_file <= files.size() && reader) read_before += size_of(file());
    reader.reset();
    if (next_file == files.size()) return false;
    reader.emplace(files[next_file++], options.max_document_bytes);
    whole_file_done = false;
    return true;
  }

  // Throws, or counts and goes on.
  void refuse(const std::string& message) {
    KUMIKO_EXPECTS(options.skip_invalid, DataError, message, "; --skip-invalid passes over such documents");
    ++skipped;
  }

  bool valid_utf8(std::string_view text, std::uint64_t offset) {
    const auto bad = find_invalid_utf8(text);
    if (bad) {
      refuse(concat("'", file().string(), "' is not UTF-8: bad byte at offset ", offset + *bad,
                    " (of the unpacked text); convert it, for instance with iconv"));
    }
    return !bad;
  }

  void refuse_size(const std::string& what) {
    refuse(concat(what, " is larger than ", format_bytes(options.max_document_bytes),
                  "; take smaller documents (--document line or blank-line) or raise --max-document"));
  }

  // Each of the four sets `document` and says whether there is one; false at the end of the file.
  bool next_whole(Document& document);
  bool next_line(Document& document);
  bool next_paragraph(Document& document);
  bool next_object(Document& document);
  bool parse_object(const std::string& line, Document& document);
};

bool DocumentStream::Impl::next_whole(Document& document) {
  if (std::exchange(whole_file_done, true)) return false;
  if (!reader->rest(document.text)) {
    refuse_size("'" + file().string() + "'");
    return false;
  }
  document.origin = file().string();
  return !document.text.empty() && valid_utf8(document.text, 0);
}

bool DocumentStream::Impl::next_line(Document& document) {
  for (;;) {
    const auto status = reader->next(document.text);
    if (status == LineReader::Status::end) return false;
    document.origin = concat(file().string(), ":", reader->number());
    if (status == LineReader::Status::too_long) {
      refuse_size("'" + document.origin + "'");
      continue;
    }
    const std::uint64_t offset = reader->position() - document.text.size();
    strip_line_end(document.text);
    if (!document.text.empty() && valid_utf8(document.text, offset)) return true;
  }
}

bool DocumentStream::Impl::next_paragraph(Document& document) {
  std::string line;
  document.text.clear();
  bool bad = false;
  for (;;) {
    const auto status = reader->next(line);
    const bool ended =
        status == LineReader::Status::end || (status == LineReader::Status::line && is_blank(line));
    if (ended) {
      const bool whole = !document.text.empty() && !bad;
      if (whole) {
        strip_line_end(document.text);
        return true;
      }
      if (status == LineReader::Status::end) return false;
      document.text.clear();
      bad = false;
      continue;
    }
    if (document.text.empty() && !bad) document.origin = concat(file().string(), ":", reader->number());
    if (bad) continue;
    if (status == LineReader::Status::too_long ||
        document.text.size() + line.size() > static_cast<std::size_t>(options.max_document_bytes)) {
      refuse_size("'" + document.origin + "'");
      bad = true;
    } else if (!valid_utf8(line, reader->position() - line.size())) {
      bad = true;
    } else {
      document.text += line;
    }
  }
}

bool DocumentStream::Impl::parse_object(const std::string& line, Document& document) {
  JsonField field = read_json_field(line, options.field);
  const std::string& where = document.origin;
  switch (field.status) {
    case JsonFieldStatus::found:
      document.text = std::move(field.value);
      return !document.text.empty();
    case JsonFieldStatus::malformed:
      refuse(concat("'", where, "' is not JSON: ", field.problem));
      break;
    case JsonFieldStatus::no_object:
      refuse(concat("'", where, "' is not a JSON object"));
      break;
    case JsonFieldStatus::missing:
      refuse(concat("'", where, "' has no field '", options.field, "'; name the field with --field"));
      break;
    case JsonFieldStatus::not_text:
      refuse(concat("'", where, "': field '", options.field, "' is not a text"));
      break;
  }
  return false;
}

bool DocumentStream::Impl::next_object(Document& document) {
  std::string line;
  for (;;) {
    const auto status = reader->next(line);
    if (status == LineReader::Status::end) return false;
    document.origin = concat(file().string(), ":", reader->number());
    if (status == LineReader::Status::too_long) {
      refuse_size("'" + document.origin + "'");
    } else if (!is_blank(line) && valid_utf8(line, reader->position() - line.size()) &&
               parse_object(line, document)) {
      return true;
    }
  }
}

DocumentStream::DocumentStream(DocumentOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
DocumentStream::DocumentStream(DocumentStream&&) noexcept = default;
DocumentStream& DocumentStream::operator=(DocumentStream&&) noexcept = default;
DocumentStream::~DocumentStream() = default;

bool DocumentStream::next(Document& document) {
  Impl& impl = *impl_;
  for (;;) {
    if (!impl.reader && !impl.open_next()) return false;
    bool found = false;
    if (is_jsonl(impl.file())) {
      found = impl.next_object(document);
    } else if (impl.options.unit == DocumentUnit::file) {
      found = impl.next_whole(document);
    } else if (impl.options.unit == DocumentUnit::line) {
      found = impl.next_line(document);
    } else {
      found = impl.next_paragraph(document);
    }
    if (found) return true;
    if (!impl.open_next()) return false;
  }
}

std::int64_t DocumentStream::files() const noexcept { return static_cast<std::int64_t>(impl_->files.size()); }
std::int64_t DocumentStream::file_bytes_total() const noexcept { return impl_->total; }
std::int64_t DocumentStream::file_bytes_read() const noexcept {
  const auto here = impl_->reader ? static_cast<std::int64_t>(impl_->reader->file_position()) : 0;
  return impl_->read_before + here;
}
std::int64_t DocumentStream::skipped() const noexcept { return impl_->skipped; }

}  // namespace kumiko::data
