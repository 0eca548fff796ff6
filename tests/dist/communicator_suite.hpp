// SPDX-License-Identifier: Apache-2.0
// One suite over every kind of communicator. A file that includes it instantiates Communicators with its
// kinds.
#pragma once

#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <ostream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dist/agreement.hpp"
#include "dist/communicator.hpp"
#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"

namespace kumiko::dist {

// Runs a body on every rank of this process.
struct Kind {
  std::string name;
  std::function<void(const std::function<void(Communicator&)>&)> run;
};

inline std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

// Ranks that are threads compute what they compare with once.
template <class Key, class Make>
at::Tensor remembered(const Key& key, const Make& make) {
  static std::mutex mutex;
  static std::map<Key, at::Tensor> made;
  const std::lock_guard lock(mutex);
  at::Tensor& value = made[key];
  if (!value.defined()) value = make();
  return value.clone();
}

inline at::Tensor make_values(int rank, std::int64_t count, at::ScalarType dtype) {
  at::Tensor normal = at::empty({2, count}, at::kFloat);
  fill_normal(normal, 1.0, 1000 + static_cast<std::uint64_t>(rank));
  at::Tensor values = normal[0] * at::pow(10.0, normal[1].clamp(-4, 4));
  if (dtype == at::kHalf) values = values.clamp(-1000, 1000);
  if (dtype == at::kByte) values = values.abs().clamp(0, 200);
  return values.to(dtype).contiguous();
}

// What rank `rank` brings: magnitudes from 1e-4 to 1e4, so that the order of a sum shows in its bits.
inline at::Tensor values_of(int rank, std::int64_t count, at::ScalarType dtype) {
  return remembered(std::tuple(rank, count, dtype), [&] { return make_values(rank, count, dtype); });
}

// The fixed tree over ranks, formed in one process by recursion: no relation to the code under test.
inline at::Tensor tree_sum(const std::vector<at::Tensor>& parts, std::size_t begin, std::size_t end) {
  if (end - begin == 1) return parts[begin];
  const std::size_t middle = begin + (end - begin) / 2;
  return tree_sum(parts, begin, middle) + tree_sum(parts, middle, end);
}

inline std::vector<at::Tensor> all_values(int size, std::int64_t count, at::ScalarType dtype) {
  std::vector<at::Tensor> parts;
  for (int rank = 0; rank < size; ++rank) parts.push_back(values_of(rank, count, dtype));
  return parts;
}

inline at::Tensor make_expected_sum(int size, std::int64_t count, at::ScalarType dtype, Wire wire) {
  std::vector<at::Tensor> parts = all_values(size, count, dtype);
  const bool narrow = dtype == at::kHalf || dtype == at::kBFloat16;
  const bool as_bf16 = wire == Wire::bf16 && dtype == at::kFloat && size > 1;
  for (at::Tensor& part : parts) {
    if (as_bf16) part = part.to(at::kBFloat16);
    if (narrow || as_bf16) part = part.to(at::kFloat);
  }
  const auto core = std::bit_floor(static_cast<unsigned>(size));
  for (std::size_t rank = core; rank < parts.size(); ++rank)
    parts[rank - core] = parts[rank - core] + parts[rank];
  at::Tensor sum = tree_sum(parts, 0, core);
  if (as_bf16) sum = sum.to(at::kBFloat16);
  return sum.to(dtype);
}

inline at::Tensor expected_sum(int size, std::int64_t count, at::ScalarType dtype, Wire wire) {
  return remembered(std::tuple(size, count, dtype, wire),
                    [&] { return make_expected_sum(size, count, dtype, wire); });
}

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.numel() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

class Communicators : public ::testing::TestWithParam<Kind> {
 protected:
  static void run(const std::function<void(Communicator&)>& body) { GetParam().run(body); }
  static void expect_sum(Communicator& comm, std::int64_t count, at::ScalarType dtype,
                         Wire wire = Wire::native) {
    at::Tensor tensor = values_of(comm.rank(), count, dtype);
    comm.all_reduce(tensor, ReduceOp::sum, wire)->wait();
    EXPECT_TRUE(same_bits(tensor, expected_sum(comm.size(), count, dtype, wire)))
        << "rank " << comm.rank() << " of " << comm.size() << ", " << count << " x " << dtype;
  }
};

TEST_P(Communicators, SumsInTheFixedTreeBitForBit) {
  run([](Communicator& comm) {
    for (const std::int64_t count : {1, 3, 7, 64, 1000, 2047, 2048, 2049, 5461, 100003, 2500001})
      expect_sum(comm, count, at::kFloat);
  });
}

TEST_P(Communicators, SumsEveryDtype) {
  run([](Communicator& comm) {
    for (const auto dtype : {at::kDouble, at::kLong, at::kInt, at::kByte, at::kBFloat16, at::kHalf}) {
      for (const std::int64_t count : {5, 5461, 40001}) expect_sum(comm, count, dtype);
    }
  });
}

TEST_P(Communicators, SendsFp32AsBf16WithFp32Sums) {
  run([](Communicator& comm) {
    for (const std::int64_t count : {5, 5461, 2500001}) expect_sum(comm, count, at::kFloat, Wire::bf16);
  });
}

TEST_P(Communicators, WireFp32KeepsTheSumOf16BitTensors) {
  run([](Communicator& comm) {
    expect_sum(comm, 5461, at::kBFloat16, Wire::fp32);
    expect_sum(comm, 5461, at::kHalf, Wire::fp32);
    expect_sum(comm, 5461, at::kHalf, Wire::bf16);
    expect_sum(comm, 5461, at::kDouble, Wire::bf16);
  });
}

TEST_P(Communicators, TakesEmptyTensors) {
  run([](Communicator& comm) {
    at::Tensor empty = at::empty({0, 4}, at::kFloat);
    comm.all_reduce(empty, ReduceOp::sum)->wait();
    comm.broadcast(empty, 0)->wait();
    EXPECT_EQ(empty.numel(), 0);
  });
}

TEST_P(Communicators, TakesTheMaximum) {
  run([](Communicator& comm) {
    for (const auto dtype :
         {at::kFloat, at::kDouble, at::kLong, at::kInt, at::kByte, at::kBFloat16, at::kHalf}) {
      for (const std::int64_t count : {1, 5461}) {
        at::Tensor tensor = values_of(comm.rank(), count, dtype);
        comm.all_reduce(tensor, ReduceOp::max, Wire::bf16)->wait();
        EXPECT_TRUE(same_bits(tensor, std::get<0>(at::stack(all_values(comm.size(), count, dtype)).max(0))))
            << dtype;
      }
    }
  });
}

TEST_P(Communicators, SpreadsNanThroughSumAndMaximum) {
  run([](Communicator& comm) {
    for (const auto& [op, wire] :
         {std::pair(ReduceOp::sum, Wire::native), std::pair(ReduceOp::sum, Wire::bf16),
          std::pair(ReduceOp::max, Wire::native)}) {
      at::Tensor tensor = at::ones({3}, at::kFloat);
      if (comm.rank() == comm.size() - 1) tensor[1] = std::numeric_limits<float>::quiet_NaN();
      comm.all_reduce(tensor, op, wire)->wait();
      EXPECT_EQ(tensor.isnan().to(at::kInt).sum().item<int>(), 1);
      EXPECT_TRUE(tensor[1].isnan().item<bool>());
    }
  });
}

TEST_P(Communicators, BroadcastsFromEachRoot) {
  run([](Communicator& comm) {
    for (int root = 0; root < comm.size(); ++root) {
      for (const std::int64_t count : {1, 3, 16385, 300001, 1048577}) {
        at::Tensor tensor = values_of(comm.rank(), count, at::kFloat);
        comm.broadcast(tensor, root)->wait();
        EXPECT_TRUE(same_bits(tensor, values_of(root, count, at::kFloat)))
            << "root " << root << ", " << count;
      }
    }
  });
}

TEST_P(Communicators, KeepsSeveralCollectivesInFlight) {
  run([](Communicator& comm) {
    std::vector<at::Tensor> tensors;
    std::vector<std::unique_ptr<Work>> works;
    for (std::int64_t i = 0; i < 20; ++i) {
      tensors.push_back(values_of(comm.rank(), 100 * i + 1, at::kFloat));
      works.push_back(comm.all_reduce(tensors.back(), ReduceOp::sum));
    }
    comm.barrier();
    for (auto& work : works) work->wait();
    for (std::int64_t i = 0; i < 20; ++i) {
      EXPECT_TRUE(same_bits(tensors[i], expected_sum(comm.size(), 100 * i + 1, at::kFloat, Wire::native)))
          << i;
    }
  });
}

TEST_P(Communicators, FinishesWorkThatNobodyWaitsFor) {
  run([](Communicator& comm) {
    at::Tensor tensor = at::ones({3000}, at::kLong);
    { const auto dropped = comm.all_reduce(tensor, ReduceOp::sum); }
    comm.barrier();
    EXPECT_EQ(tensor.sum().item<std::int64_t>(), 3000 * comm.size());
  });
}

TEST_P(Communicators, RefusesTensorsItCannotSend) {
  run([](Communicator& comm) {
    EXPECT_THROW(std::ignore = comm.all_reduce(at::Tensor(), ReduceOp::sum), ShapeError);
    EXPECT_THROW(std::ignore = comm.all_reduce(at::ones({4, 4}).t().slice(0, 0, 2), ReduceOp::sum),
                 ShapeError);
    EXPECT_THROW(std::ignore = comm.all_reduce(at::ones({4}, at::kBool), ReduceOp::sum), ShapeError);
    EXPECT_THROW(std::ignore = comm.broadcast(at::ones({4}), comm.size()), ShapeError);
    EXPECT_THROW(std::ignore = comm.broadcast(at::ones({4}), -1), ShapeError);
  });
}

TEST_P(Communicators, BarrierHoldsUntilAllHaveCome) {
  run([](Communicator& comm) {
    using Clock = std::chrono::steady_clock;
    comm.barrier();
    const auto start = Clock::now();
    if (comm.rank() == comm.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    comm.barrier();
    EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(comm.size() == 1 ? 100 : 90));
  });
}

TEST_P(Communicators, GathersTextsOfAnyLength) {
  run([](Communicator& comm) {
    const auto text_of = [](int rank) {
      return rank == 1
                 ? std::string()
                 : std::string(static_cast<std::size_t>(rank) * 700, static_cast<char>('a' + rank)) + '\n';
    };
    const std::vector<std::string> texts = gather_texts(comm, text_of(comm.rank()));
    ASSERT_EQ(texts.size(), static_cast<std::size_t>(comm.size()));
    for (int rank = 0; rank < comm.size(); ++rank) EXPECT_EQ(texts[rank], text_of(rank));
  });
}

inline std::string agreement_error(Communicator& comm, const Facts& facts) {
  try {
    require_agreement(comm, facts);
  } catch (const UsageError& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

TEST_P(Communicators, AgreesOnEqualFacts) {
  run([](Communicator& comm) {
    EXPECT_EQ(
        agreement_error(comm, {{"recipe", "a: 1\nb: 2\n"}, {"data", ""}, {"odd", std::string("3:x\0y", 5)}}),
        "");
    EXPECT_EQ(agreement_error(comm, {}), "");
  });
}

TEST_P(Communicators, NamesTheFirstFactThatDiffersOnEveryRank) {
  run([](Communicator& comm) {
    const bool last = comm.rank() == comm.size() - 1;
    const Facts facts{{"build", "0.1.0"}, {"dtype", last ? "fp32" : "bf16"}, {"data", last ? "x" : "y"}};
    const std::string error = agreement_error(comm, facts);
    if (comm.size() == 1) {
      EXPECT_EQ(error, "");
    } else {
      EXPECT_THAT(error, testing::StartsWith("the ranks disagree on dtype: rank"));
      EXPECT_THAT(error, testing::HasSubstr("'bf16', rank " + std::to_string(comm.size() - 1) +
                                            " has 'fp32'; start every rank"));
    }
  });
}

TEST_P(Communicators, ShowsTheLineOfARecipeThatDiffers) {
  run([](Communicator& comm) {
    const std::string recipe =
        "model:\n  preset: 9m\nmethod:\n  rank: " + std::to_string(comm.rank() == 0 ? 128 : 64) + "\n";
    const std::string error = agreement_error(comm, {{"recipe", recipe}});
    if (comm.size() == 1) {
      EXPECT_EQ(error, "");
    } else {
      EXPECT_THAT(error, testing::StartsWith(
                             "the ranks disagree on recipe (line 4): rank 0 has '  rank: 128', rank"));
      EXPECT_THAT(error, testing::HasSubstr("'  rank: 64'"));
    }
  });
}

TEST_P(Communicators, NamesAFactThatOnlySomeRanksHave) {
  run([](Communicator& comm) {
    Facts facts{{"build", "0.1.0"}};
    if (comm.rank() == comm.size() - 1) facts.emplace_back("shards", "3");
    const std::string error = agreement_error(comm, facts);
    if (comm.size() > 1) {
      EXPECT_THAT(error, testing::HasSubstr("disagree on shards: "));
      EXPECT_THAT(error,
                  testing::HasSubstr(" nothing, rank " + std::to_string(comm.size() - 1) + " has '3'"));
    } else {
      EXPECT_EQ(error, "");
    }
  });
}

}  // namespace kumiko::dist
