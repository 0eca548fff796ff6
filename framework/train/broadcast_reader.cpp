// SPDX-License-Identifier: Apache-2.0
#include "framework/train/broadcast_reader.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"

namespace kumiko {
namespace {

constexpr std::int64_t kMaxDims = 32;
constexpr std::int64_t kHeaderWords = 5 + kMaxDims;
constexpr std::int64_t kChunkBytes = std::int64_t{256} << 20;  // below the 2^31 elements of one MPI call

enum Field : std::int64_t { name_hash, failed, kind, value, dims };

void broadcast(at::Tensor tensor, dist::Communicator& comm) { comm.broadcast(std::move(tensor), 0)->wait(); }

void broadcast_bytes(void* data, std::int64_t bytes, dist::Communicator& comm) {
  for (std::int64_t begin = 0; begin < bytes; begin += kChunkBytes) {
    const std::int64_t count = std::min(kChunkBytes, bytes - begin);
    broadcast(at::from_blob(static_cast<std::byte*>(data) + begin, {count}, at::kByte), comm);
  }
}

// One header from rank 0, filled by `fill` there; its CheckpointError reaches all ranks.
using Header = std::array<std::int64_t, kHeaderWords>;
Header exchange(std::string_view name, const std::function<void(Header&)>& fill, dist::Communicator& comm) {
  Header header{};
  const auto own_hash = static_cast<std::int64_t>(stream_seed(0, name));
  std::string problem;
  if (comm.rank() == 0) {
    header[name_hash] = own_hash;
    try {
      fill(header);
    } catch (const CheckpointError& error) {
      header[failed] = 1;
      problem = error.what();
    }
  }
  broadcast(at::from_blob(header.data(), {kHeaderWords}, at::kLong), comm);
  TORCH_INTERNAL_ASSERT(header[name_hash] == own_hash,
                        "ranks read different names from one checkpoint; this one '", name, "'");
  if (header[failed] != 0) throw CheckpointError(broadcast_text(problem, comm));
  return header;
}

}  // namespace

std::string broadcast_text(const std::string& text, dist::Communicator& comm) {
  std::int64_t size = comm.rank() == 0 ? static_cast<std::int64_t>(text.size()) : 0;
  broadcast(at::from_blob(&size, {1}, at::kLong), comm);
  std::string result = comm.rank() == 0 ? text : std::string(static_cast<std::size_t>(size), '\0');
  broadcast_bytes(result.data(), size, comm);
  return result;
}

BroadcastReader::BroadcastReader(const StateReader* source, dist::Communicator& comm)
    : source_(source), comm_(comm) {
  TORCH_INTERNAL_ASSERT((source != nullptr) == (comm.rank() == 0),
                        "rank 0 and only rank 0 has the checkpoint");
}

bool BroadcastReader::has(std::string_view name) const {
  return exchange(
             name, [&](Header& header) { header[value] = source_->has(name) ? 1 : 0; }, comm_)[value] != 0;
}

std::int64_t BroadcastReader::integer(std::string_view name) const {
  return exchange(
      name, [&](Header& header) { header[value] = source_->integer(name); }, comm_)[value];
}

double BroadcastReader::real(std::string_view name) const {
  return std::bit_cast<double>(exchange(
      name, [&](Header& header) { header[value] = std::bit_cast<std::int64_t>(source_->real(name)); },
      comm_)[value]);
}

std::string BroadcastReader::text(std::string_view name) const {
  std::string result;
  exchange(
      name, [&](Header&) { result = source_->text(name); }, comm_);
  return broadcast_text(result, comm_);
}

at::Tensor BroadcastReader::tensor(std::string_view name) const {
  at::Tensor result;
  const Header header = exchange(
      name,
      [&](Header& out) {
        result = source_->tensor(name).contiguous();
        TORCH_INTERNAL_ASSERT(result.dim() <= kMaxDims);
        out[kind] = static_cast<std::int64_t>(result.scalar_type());
        out[value] = result.dim();
        for (std::int64_t i = 0; i < result.dim(); ++i)
          out[static_cast<std::size_t>(dims + i)] = result.size(i);
      },
      comm_);
  if (comm_.rank() != 0) {
    result = at::empty(at::IntArrayRef(header.data() + dims, static_cast<std::size_t>(header[value])),
                       static_cast<at::ScalarType>(header[kind]));
  }
  broadcast_bytes(result.mutable_data_ptr(), static_cast<std::int64_t>(result.nbytes()), comm_);
  return result;
}

}  // namespace kumiko
