// SPDX-License-Identifier: Apache-2.0
#include "quant/int8_kernels.hpp"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/quant/every_target.hpp"

namespace kumiko::quant {
namespace {

using test::normal;
using test::same_bits;
using test::same_numbers;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Encoded {
  at::Tensor codes;
  at::Tensor absmax;
};

Encoded encode(decltype(&cpu::int8_encode) kernel, const at::Tensor& dense, std::int64_t block_size,
               std::optional<std::uint64_t> seed = std::nullopt) {
  Encoded out{at::empty({dense.numel()}, at::kByte),
              at::empty({(dense.numel() + block_size - 1) / block_size}, at::kFloat)};
  kernel(dense, block_size, seed, out.codes, out.absmax);
  return out;
}

at::Tensor decode(decltype(&cpu::int8_decode) kernel, const Encoded& value, std::int64_t block_size,
                  at::ScalarType dtype = at::kFloat) {
  at::Tensor out = at::empty({value.codes.numel()}, dtype);
  kernel(value.codes, {.values = value.absmax}, block_size, out);
  return out;
}

// In a short block of absmax 254, 127 x is half the value, exactly where the value is a small multiple of
// 254.
TEST(Int8Kernels, TakeHandCheckedCodes) {
  const at::Tensor dense =
      at::tensor({254.0f, -254.0f, 0.0f, -0.0f, 127.0f, -127.0f, 5.9f, -6.1f, 190.4f, 0.9f});
  const std::vector<int> expected = {127, -127, 0, 0, 64, -64, 3, -3, 95, 0};  // 63.5 is a tie: 64 is even
  for (const auto kernel : {reference::int8_encode, cpu::int8_encode}) {
    const Encoded value = encode(kernel, dense, 32);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto index = static_cast<std::int64_t>(i);
      EXPECT_EQ(static_cast<std::int8_t>(value.codes[index].item<std::uint8_t>()), expected[i]) << i;
    }
    EXPECT_EQ(value.absmax.item<float>(), 254.0f);
    const at::Tensor restored = decode(cpu::int8_decode, value, 32);
    EXPECT_EQ(restored[1].item<float>(), -254.0f);
    EXPECT_NEAR(restored[6].item<float>(), 6.0f, 1e-6);
  }
}

TEST(Int8Kernels, SpreadNoNonFiniteValueBeyondItsBlock) {
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    at::Tensor dense = at::ones({129}, at::kFloat);
    dense[66] = bad;
    const at::Tensor out = decode(cpu::int8_decode, encode(cpu::int8_encode, dense, 64), 64);
    EXPECT_FALSE(out.slice(0, 64, 128).isfinite().any().item<bool>());
    EXPECT_TRUE(out.slice(0, 0, 64).eq(1).all().item<bool>());
    EXPECT_EQ(out[128].item<float>(), 1.0f);
  }
}

class Int8EveryTarget : public test::EveryTarget {
 protected:
  void expect_equal_to_reference(const at::Tensor& dense, std::int64_t block_size) {
    for (const std::optional<std::uint64_t> seed : {std::optional<std::uint64_t>{}, {5}}) {
      force(0);
      const Encoded expected = encode(reference::int8_encode, dense, block_size, seed);
      force(GetParam());
      const Encoded found = encode(cpu::int8_encode, dense, block_size, seed);
      const auto what = [&] {
        return concat(dense.numel(), " elements, block ", block_size, ", ", dense.scalar_type(),
                      seed ? ", stochastic" : "");
      };
      ASSERT_TRUE(same_bits(found.codes, expected.codes)) << what();
      ASSERT_TRUE(same_numbers(found.absmax, expected.absmax)) << what();
      for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
        ASSERT_TRUE(same_numbers(decode(cpu::int8_decode, expected, block_size, dtype),
                                 decode(reference::int8_decode, expected, block_size, dtype)))
            << what() << " to " << dtype;
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Targets, Int8EveryTarget, test::every_target(), test::target_name);

TEST_P(Int8EveryTarget, EqualsTheReferenceForEveryBlockSizeAndType) {
  for (std::int64_t block_size = 32; block_size <= 4096; block_size *= 2) {
    const at::Tensor dense = normal({3 * block_size + block_size / 2 + 1}, block_size);
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf})
      expect_equal_to_reference(dense.to(dtype), block_size);
  }
}

TEST_P(Int8EveryTarget, EqualsTheReferenceAtEveryCountUpToTwoBlocks) {
  for (std::int64_t numel = 0; numel <= 2 * 64 + 1; ++numel)
    expect_equal_to_reference(normal({numel}, numel), 64);
}

TEST_P(Int8EveryTarget, EqualsTheReferenceOnAll16BitPatterns) {
  const at::Tensor patterns = at::arange(65536, at::kInt).to(at::kShort);
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    const at::Tensor dense = patterns.view(dtype);
    expect_equal_to_reference(dense, 64);
    expect_equal_to_reference(dense.masked_select(dense.isfinite()), 32);
  }
}

TEST(Int8CudaKernels, SayThatTheyAreNotBuilt) {
  EXPECT_THROW(encode(cuda::int8_encode, at::zeros({64}, at::kFloat), 64), NotBuiltError);
}

}  // namespace
}  // namespace kumiko::quant
