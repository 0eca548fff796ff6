// SPDX-License-Identifier: Apache-2.0
// A stream of documents from text files, folders, JSONL, and .gz or .zst of those. Holds one document at a
// time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace kumiko::data {

struct Document {
  std::string text;    // valid UTF-8
  std::string origin;  // "FILE" or "FILE:LINE", for messages
};

// What one document is in a text file. A JSONL file has one in each line that is not blank.
enum class DocumentUnit { file, line, blank_line };

struct DocumentOptions {
  std::vector<std::filesystem::path> inputs;  // files and folders, taken in this order
  std::vector<std::string> suffixes;          // of files taken from folders; empty: kDefaultSuffixes
  DocumentUnit unit = DocumentUnit::file;
  std::string field = "text";  // of JSONL objects
  bool skip_invalid = false;   // count bad documents instead of failing at the first
  std::int64_t max_document_bytes = std::int64_t{64} << 20;  // unpacked; also bounds a line
};

// .jsonl, .ndjson: JSONL; every other name: text. Each also with .gz or .zst behind it.
inline const std::vector<std::string> kDefaultSuffixes{".txt", ".md", ".rst", ".text", ".jsonl", ".ndjson"};

// Files are sorted by path within each folder; names that begin with a dot are left out. Order and content
// depend on the inputs alone.
class DocumentStream {
 public:
  // Throws DataError for a missing input, a folder without matching files, or no input at all.
  explicit DocumentStream(DocumentOptions options);
  DocumentStream(DocumentStream&&) noexcept;
  DocumentStream& operator=(DocumentStream&&) noexcept;
  ~DocumentStream();

  // False at the end. Empty documents are passed over. Throws DataError that names file and byte offset (text
  // that is not UTF-8), file and line (JSONL that is malformed or lacks the field), or a document over the
  // limit.
  bool next(Document& document);

  std::int64_t files() const noexcept;
  std::int64_t file_bytes_total() const noexcept;  // as on disk
  std::int64_t file_bytes_read() const noexcept;
  std::int64_t skipped() const noexcept;  // bad documents, with skip_invalid

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kumiko::data
