// SPDX-License-Identifier: Apache-2.0
#include "quant/codebook4_kernels.hpp"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "quant/fp4_codec.hpp"
#include "quant/int4_codec.hpp"
#include "quant/nf4_codec.hpp"
#include "tests/quant/every_target.hpp"

namespace kumiko::quant {
namespace {

using test::hex_of;
using test::lcg_values;
using test::normal;
using test::same_bits;
using test::sha256_of;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Encoded {
  at::Tensor codes;
  at::Tensor absmax;
};

using EncodeKernel = decltype(&cpu::codebook4_encode);
using DecodeKernel = decltype(&cpu::codebook4_decode);

struct Backend {
  const char* name;
  EncodeKernel encode;
  DecodeKernel decode;

  friend void PrintTo(const Backend& backend, std::ostream* out) { *out << backend.name; }
};

Encoded encode(EncodeKernel kernel, const at::Tensor& dense, std::int64_t block_size,
               const Codebook4& book = kNf4Codebook, std::optional<std::uint64_t> seed = std::nullopt) {
  const std::int64_t numel = dense.numel();
  Encoded out{at::empty({(numel + 1) / 2}, at::kByte),
              at::empty({(numel + block_size - 1) / block_size}, at::kFloat)};
  kernel(book, dense, block_size, seed, out.codes, out.absmax);
  return out;
}

at::Tensor decode(DecodeKernel kernel, const Encoded& value, std::int64_t numel, std::int64_t block_size,
                  at::ScalarType dtype, const Codebook4& book = kNf4Codebook) {
  at::Tensor out = at::empty({numel}, dtype);
  kernel(book, value.codes, {.values = value.absmax}, block_size, out);
  return out;
}

class Nf4Kernels : public testing::TestWithParam<Backend> {
 protected:
  Encoded encode(const at::Tensor& dense, std::int64_t block_size = 64) const {
    return quant::encode(GetParam().encode, dense, block_size);
  }
  at::Tensor decode(const Encoded& value, std::int64_t numel, std::int64_t block_size = 64,
                    at::ScalarType dtype = at::kFloat) const {
    return quant::decode(GetParam().decode, value, numel, block_size, dtype);
  }
};

INSTANTIATE_TEST_SUITE_P(Backends, Nf4Kernels,
                         testing::Values(Backend{"reference", reference::codebook4_encode,
                                                 reference::codebook4_decode},
                                         Backend{"cpu", cpu::codebook4_encode, cpu::codebook4_decode}),
                         [](const auto& param_info) { return param_info.param.name; });

TEST(Nf4Code, HasThePublishedBits) {
  const at::Tensor code = at::from_blob(const_cast<float*>(kNf4Codebook.values.data()), {16}, at::kFloat);
  EXPECT_EQ(sha256_of(code), "8501941daa1b8a90ad1bbfeb632e5101b5dddbc4bb52d6e55abcfd777e60c06a");
}

TEST(Nf4Code, HasTheThresholdsOfOtherCpuBackends) {
  EXPECT_THAT(kNf4Codebook.thresholds,
              testing::ElementsAre(-0.848096371f, -0.610632896f, -0.45999527f, -0.33967942f, -0.234607399f,
                                   -0.137911737f, -0.0455250181f, 0.0397901498f, 0.120255247f, 0.203521252f,
                                   0.292013764f, 0.389312536f, 0.501663446f, 0.64278692f, 0.861478448f));
}

TEST_P(Nf4Kernels, EncodesALinearRamp) {
  const Encoded value = encode(at::linspace(-1.0, 1.0, 64));
  EXPECT_EQ(hex_of(value.codes), "00000111111112222233344445556667788899aaabbbccccddddeeeeeeefffff");
  EXPECT_EQ(value.absmax.item<float>(), 1.0f);
}

TEST_P(Nf4Kernels, EncodesTwoBlocksOfSevenths) {
  const at::Tensor dense = at::arange(-64, 64, at::kFloat) / 7;
  const Encoded value = encode(dense);
  EXPECT_EQ(hex_of(value.codes),
            "0000000000111111111111111222222222233333333444444555555566666677"
            "7778888899999aaaaaabbbbbbcccccccdddddddddeeeeeeeeeeeeeefffffffff");
  EXPECT_EQ(value.absmax[0].item<float>(), 9.142857551574707f);
  EXPECT_EQ(value.absmax[1].item<float>(), 9.0f);
  EXPECT_NEAR(decode(value, 128).sum(at::kDouble).item<double>(), -8.432698667049408, 1e-12);
}

TEST_P(Nf4Kernels, EncodesTheLcgSequence) {
  const at::Tensor dense = lcg_values(4096);
  ASSERT_EQ(dense[0].item<float>(), 0.3103080988f);
  const Encoded value = encode(dense);
  EXPECT_EQ(sha256_of(value.codes), "6ad897d24650f38ce5e0abe816e2ef8f7ee311013fbd0f9c19244417b1f82e46");
  EXPECT_EQ(hex_of(value.codes.slice(0, 0, 16)), "b3b177a424e13bdfd68a2ccf36cc10d0");
  EXPECT_EQ(value.absmax[0].item<float>(), 0.9756225944f);
  EXPECT_EQ(value.absmax[3].item<float>(), 0.9680261016f);
  EXPECT_NEAR(value.absmax.sum(at::kDouble).item<double>(), 62.96610254, 1e-7);

  const at::Tensor restored = decode(value, 4096);
  EXPECT_NEAR(restored.sum(at::kDouble).item<double>(), 31.566409543, 1e-8);
  EXPECT_NEAR(((restored - dense).norm() / dense.norm()).item<double>(), 0.0897367373, 1e-7);
}

TEST_P(Nf4Kernels, CodesOfTheLcgSequenceHaveThePublishedHistogram) {
  const Encoded value = encode(lcg_values(4096));
  std::vector<std::int64_t> histogram(16);
  for (std::int64_t i = 0; i < value.codes.numel(); ++i) {
    const auto byte = value.codes.const_data_ptr<std::uint8_t>()[i];
    ++histogram[byte >> 4];
    ++histogram[byte & 15];
  }
  EXPECT_THAT(histogram, testing::ElementsAre(317, 464, 322, 232, 232, 186, 189, 161, 148, 183, 179, 201, 245,
                                              290, 438, 309));
}

TEST_P(Nf4Kernels, EncodesBf16) {
  const Encoded value = encode(lcg_values(4096).to(at::kBFloat16));
  EXPECT_EQ(sha256_of(value.codes), "0a3b904039cd1df4ad6ee832513918ac7e462069748876c3af2db3caa9137ab9");
}

TEST_P(Nf4Kernels, GivesAValueOnAThresholdTheLowerCode) {
  for (std::size_t i = 0; i < kNf4Codebook.thresholds.size(); ++i) {
    at::Tensor dense = at::ones({64}, at::kFloat);
    dense[0] = kNf4Codebook.thresholds[i];
    dense[1] = std::nextafter(kNf4Codebook.thresholds[i], 2.0f);
    const int byte = encode(dense).codes[0].item<int>();
    EXPECT_EQ(byte >> 4, static_cast<int>(i));
    EXPECT_EQ(byte & 15, static_cast<int>(i) + 1);
  }
}

TEST_P(Nf4Kernels, DecodesEachCodeToItsValueTimesTheScale) {
  Encoded value{at::empty({32}, at::kByte), at::full({1}, 3.7f)};
  for (int i = 0; i < 32; ++i) value.codes[i] = (i % 16) << 4 | (15 - i % 16);
  const at::Tensor out = decode(value, 64);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(out[2 * i].item<float>(), kNf4Codebook.values[i % 16] * 3.7f);
    EXPECT_EQ(out[2 * i + 1].item<float>(), kNf4Codebook.values[15 - i % 16] * 3.7f);
  }
}

TEST_P(Nf4Kernels, KeepsAZeroBlockZero) {
  const Encoded value = encode(at::zeros({128}, at::kFloat));
  EXPECT_EQ(hex_of(value.codes), std::string(128, '7'));
  EXPECT_EQ(value.absmax[0].item<float>(), 0.0f);
  EXPECT_TRUE(decode(value, 128).eq(0).all().item<bool>());
}

TEST_P(Nf4Kernels, ClampsTheScaleOfAShortZeroBlockOnly) {
  const Encoded value = encode(at::zeros({65}, at::kFloat));
  EXPECT_EQ(value.absmax[0].item<float>(), 0.0f);
  EXPECT_EQ(value.absmax[1].item<float>(), 1e-38f);
  EXPECT_TRUE(decode(value, 65).eq(0).all().item<bool>());
}

TEST_P(Nf4Kernels, PadsAnOddCountWithTheZeroCode) {
  const Encoded value = encode(at::full({3, 5}, -2.0f));
  EXPECT_EQ(hex_of(value.codes), "0000000000000007");
  EXPECT_EQ(value.absmax.numel(), 1);
}

TEST_P(Nf4Kernels, KeepsOneElementExactly) {
  for (const float x : {1.5f, -3e38f, 1e-30f}) {
    const Encoded value = encode(at::full({1}, x));
    EXPECT_EQ(decode(value, 1).item<float>(), x);
  }
}

TEST_P(Nf4Kernels, TakesNothing) {
  const Encoded value = encode(at::empty({0}, at::kFloat));
  EXPECT_EQ(value.codes.numel(), 0);
  EXPECT_EQ(decode(value, 0).numel(), 0);
}

TEST_P(Nf4Kernels, LosesABlockToOneOutlierAndNoOther) {
  at::Tensor dense = at::full({192}, 0.01f);
  dense[70] = 1000.0f;
  const at::Tensor out = decode(encode(dense), 192);
  EXPECT_TRUE(out.slice(0, 0, 64).eq(0.01f).all().item<bool>());
  EXPECT_TRUE(out.slice(0, 128).eq(0.01f).all().item<bool>());
  EXPECT_EQ(out[70].item<float>(), 1000.0f);
  EXPECT_EQ(out[71].item<float>(), 0.0f);
}

TEST_P(Nf4Kernels, QuantizesHugeAndDenormalValuesByTheClampedReciprocal) {
  at::Tensor dense = at::full({128}, 3e38f);
  dense[1] = -3e38f;
  dense.slice(0, 64).fill_(1e-40f);
  const Encoded value = encode(dense);
  EXPECT_EQ(hex_of(value.codes.slice(0, 0, 2)), "f0ff");
  EXPECT_EQ(hex_of(value.codes.slice(0, 32)), std::string(64, '7'));
  EXPECT_EQ(value.absmax[0].item<float>(), 3e38f);
  EXPECT_EQ(value.absmax[1].item<float>(), 1e-40f);
}

TEST_P(Nf4Kernels, SpreadsNoNonFiniteValueBeyondItsBlock) {
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    at::Tensor dense = at::ones({129}, at::kFloat);
    dense[66] = bad;
    const Encoded value = encode(dense);
    EXPECT_FALSE(std::isfinite(value.absmax[1].item<float>()));
    const at::Tensor out = decode(value, 129);
    EXPECT_FALSE(out.slice(0, 64, 128).isfinite().any().item<bool>());
    EXPECT_TRUE(out.slice(0, 0, 64).eq(1).all().item<bool>());
    EXPECT_EQ(out[128].item<float>(), 1.0f);
  }
}

TEST_P(Nf4Kernels, RoundsToTheTargetsTypeAsLibTorchDoes) {
  const at::Tensor dense = at::cat(
      {normal({5000}, 1) * 1e-8, normal({5000}, 2) * 1e-4, normal({5000}, 3) * 1e5, normal({5000}, 4)});
  const Encoded value = encode(dense);
  const at::Tensor exact = decode(value, 20000);
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    EXPECT_TRUE(same_bits(decode(value, 20000, 64, dtype), exact.to(dtype))) << dtype;
  }
}

// mean |err| of N(0, 1): 0.072798 with standard deviation 7.4e-5 over a million elements at block 64.
TEST_P(Nf4Kernels, HasThePublishedErrorOnANormalDistribution) {
  const at::Tensor dense = normal({1024 * 1024}, 7);
  const std::vector<std::pair<std::int64_t, double>> expected = {
      {32, 0.067746}, {64, 0.072798}, {128, 0.076831}, {256, 0.080337}};
  for (const auto& [block_size, error] : expected) {
    const at::Tensor off = decode(encode(dense, block_size), dense.numel(), block_size) - dense;
    EXPECT_NEAR(off.abs().mean().item<double>(), error, 4 * 7.4e-5) << "block " << block_size;
  }
  const at::Tensor off = decode(encode(dense), dense.numel()) - dense;
  EXPECT_NEAR((off.abs() / dense.abs()).mean().item<double>(), 0.203339, 2e-3);
  EXPECT_NEAR(off.square().mean().item<double>(), 0.00844, 6e-5);
  EXPECT_NEAR((off.norm() / dense.norm()).item<double>(), 0.0919, 2e-4);
}

TEST_P(Nf4Kernels, IsIdempotent) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor dense = normal({10001}, 11).to(dtype);
    const Encoded once = encode(dense);
    const Encoded twice = encode(decode(once, dense.numel(), 64, dtype));
    EXPECT_TRUE(same_bits(once.codes, twice.codes)) << dtype;
    EXPECT_TRUE(same_bits(once.absmax, twice.absmax)) << dtype;
  }
}

class Codebook4EveryTarget : public test::EveryTarget {
 protected:
  void expect_equal_to_reference(const Codebook4& book, std::optional<std::uint64_t> seed,
                                 const at::Tensor& dense, std::int64_t block_size) {
    force(0);
    const Encoded expected = quant::encode(reference::codebook4_encode, dense, block_size, book, seed);
    force(GetParam());
    const Encoded found = quant::encode(cpu::codebook4_encode, dense, block_size, book, seed);
    const auto what = [&] {
      return concat(dense.numel(), " elements, block ", block_size, ", ", dense.scalar_type(),
                    ", lowest level ", book.levels[0], seed ? ", stochastic" : "");
    };
    ASSERT_TRUE(same_bits(found.codes, expected.codes))
        << what() << ": " << hex_of(found.codes) << ", expected " << hex_of(expected.codes);
    ASSERT_TRUE(test::same_numbers(found.absmax, expected.absmax)) << what();
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const auto numel = dense.numel();
      const at::Tensor plain =
          quant::decode(reference::codebook4_decode, expected, numel, block_size, dtype, book);
      const at::Tensor fast = quant::decode(cpu::codebook4_decode, expected, numel, block_size, dtype, book);
      ASSERT_TRUE(test::same_numbers(fast, plain)) << what() << " to " << dtype;
    }
  }

  void expect_equal_to_reference(const at::Tensor& dense, std::int64_t block_size) {
    for (const Codebook4* book : {&kNf4Codebook, &kFp4Codebook, &kInt4Codebook}) {
      expect_equal_to_reference(*book, std::nullopt, dense, block_size);
      expect_equal_to_reference(*book, 77, dense, block_size);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Targets, Codebook4EveryTarget, test::every_target(), test::target_name);

TEST_P(Codebook4EveryTarget, EqualsTheReferenceForEveryBlockSizeAndType) {
  for (std::int64_t block_size = 32; block_size <= 4096; block_size *= 2) {
    const at::Tensor dense = normal({3 * block_size + block_size / 2 + 1}, block_size);
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf})
      expect_equal_to_reference(dense.to(dtype), block_size);
  }
}

TEST_P(Codebook4EveryTarget, EqualsTheReferenceAtEveryCountUpToThreeBlocks) {
  for (std::int64_t numel = 0; numel <= 3 * 64 + 1; ++numel) {
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf})
      expect_equal_to_reference(normal({numel}, numel).to(dtype), 64);
  }
}

TEST_P(Codebook4EveryTarget, EqualsTheReferenceOnAMatrixOfOddWidth) {
  expect_equal_to_reference(normal({64, 5461}, 3).view({-1}), 64);
}

TEST_P(Codebook4EveryTarget, EqualsTheReferenceFromDenormalToHuge) {
  for (int exponent = -149; exponent <= 127; ++exponent) {
    expect_equal_to_reference(normal({200}, exponent + 200).clamp(-1.9, 1.9) * std::ldexp(1.0f, exponent),
                              64);
  }
}

TEST_P(Codebook4EveryTarget, EqualsTheReferenceOnAll16BitPatterns) {
  const at::Tensor patterns = at::arange(65536, at::kInt).to(at::kShort);
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    const at::Tensor dense = patterns.view(dtype);
    expect_equal_to_reference(dense, 64);
    expect_equal_to_reference(dense, 4096);
    expect_equal_to_reference(dense.masked_select(dense.isfinite()), 32);
  }
}

TEST_P(Codebook4EveryTarget, EqualsTheReferenceOnNonFiniteValues) {
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (const int where : {0, 63, 64, 130}) {
      at::Tensor dense = normal({131}, 5);
      dense[where] = bad;
      expect_equal_to_reference(dense, 64);
    }
  }
}

TEST_P(Codebook4EveryTarget, DecodesToAnyRepresentableScaleAsTheReferenceDoes) {
  const at::Tensor bits =
      at::randint(0, 0x7f800000, {4096}, at::detail::createCPUGenerator(9), at::TensorOptions(at::kInt));
  Encoded value{
      at::randint(0, 256, {4096 * 16}, at::detail::createCPUGenerator(10), at::TensorOptions(at::kByte)),
      bits.view(at::kFloat)};
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    force(GetParam());
    const at::Tensor fast = quant::decode(cpu::codebook4_decode, value, 4096 * 32, 32, dtype);
    ASSERT_TRUE(same_bits(fast, quant::decode(reference::codebook4_decode, value, 4096 * 32, 32, dtype)))
        << dtype;
  }
}

TEST(Codebook4CpuKernels, SplitWorkOverThreadsWithoutChangingABit) {
  const at::Tensor dense = normal({1000 * 1000 + 1}, 21);
  const Encoded expected = encode(reference::codebook4_encode, dense, 64);
  const Encoded found = encode(cpu::codebook4_encode, dense, 64);
  EXPECT_TRUE(same_bits(found.codes, expected.codes));
  EXPECT_TRUE(same_bits(found.absmax, expected.absmax));
  EXPECT_TRUE(same_bits(decode(cpu::codebook4_decode, found, dense.numel(), 64, at::kBFloat16),
                        decode(reference::codebook4_decode, found, dense.numel(), 64, at::kBFloat16)));
}

TEST(Codebook4CpuKernels, RefuseOtherTypes) {
  EXPECT_THROW(encode(cpu::codebook4_encode, at::zeros({64}, at::kDouble), 64), ShapeError);
}

TEST(Codebook4CudaKernels, SayThatTheyAreNotBuilt) {
  try {
    encode(cuda::codebook4_encode, at::zeros({64}, at::kFloat), 64);
    FAIL() << "no error";
  } catch (const NotBuiltError& error) {
    EXPECT_STREQ(error.what(), "codebook4_encode: built without CUDA");
  }
}

}  // namespace
}  // namespace kumiko::quant
