// SPDX-License-Identifier: Apache-2.0
#include "quant/quantized_tensor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "tests/quant/quant_test_support.hpp"
#include "tests/support/memory_state.hpp"

namespace kumiko::quant {
namespace {

using kumiko::test::MemoryState;
using test::lcg_values;
using test::nf4;
using test::normal;
using test::same_bits;
using testing::HasSubstr;

constexpr QuantFormat kNone{.codec = CodecKind::none};

bool same_value(const QuantizedTensor& a, const QuantizedTensor& b) {
  const auto left = a.storage();
  const auto right = b.storage();
  if (a.sizes() != b.sizes() || !(a.format() == b.format()) || left.size() != right.size()) return false;
  for (std::size_t i = 0; i < left.size(); ++i) {
    if (!same_bits(left[i], right[i])) return false;
  }
  return true;
}

template <class E>
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  return "no such error";
}

TEST(QuantizedTensor, KeepsSizesThroughARoundTrip) {
  for (const std::vector<std::int64_t>& sizes :
       {std::vector<std::int64_t>{}, {0}, {1}, {3, 5}, {64, 5461}, {2, 0, 3}, {7, 9, 11}}) {
    const at::Tensor dense = normal(sizes, 1);
    for (const bool double_quant : {false, true}) {
      const auto value = QuantizedTensor::quantize(dense, nf4(64, double_quant));
      const at::Tensor restored = value.dequantize(at::kFloat);
      EXPECT_EQ(value.sizes(), at::IntArrayRef(sizes));
      EXPECT_EQ(restored.sizes(), at::IntArrayRef(sizes));
      EXPECT_EQ(value.numel(), dense.numel());
      if (dense.numel() > 1000) {
        EXPECT_NEAR(((restored - dense).norm() / dense.norm()).item<double>(), 0.092, 0.002);
      }
    }
  }
}

TEST(QuantizedTensor, HasTheSizesOfTheOddLayer) {
  const auto value = QuantizedTensor::quantize(normal({64, 5461}, 1), nf4(64, false));
  EXPECT_EQ(value.storage()[0].numel(), 174752);
  EXPECT_EQ(value.storage()[1].numel(), 5461);
}

TEST(QuantizedTensor, DecodesDoubleQuantizedScalesToThePublishedSum) {
  const auto value = QuantizedTensor::quantize(lcg_values(4096), nf4(64, true));
  EXPECT_NEAR(value.dequantize(at::kFloat).sum(at::kDouble).item<double>(), 31.566007331, 1e-8);
}

TEST(QuantizedTensor, HasTheSameCodesWithAndWithoutDoubleQuantization) {
  const at::Tensor dense = normal({333, 77}, 5);
  EXPECT_TRUE(same_bits(QuantizedTensor::quantize(dense, nf4(64, true)).storage()[0],
                        QuantizedTensor::quantize(dense, nf4(64, false)).storage()[0]));
}

TEST(QuantizedTensor, LosesLittleByDoubleQuantization) {
  const at::Tensor dense = normal({1024, 1024}, 6);
  const at::Tensor restored = QuantizedTensor::quantize(dense, nf4(64, true)).dequantize(at::kFloat);
  EXPECT_NEAR((restored - dense).abs().mean().item<double>(), 0.07283, 3e-4);
}

TEST(QuantizedTensor, IsIdempotentInItsCodes) {
  const at::Tensor dense = normal({512, 130}, 8);
  for (const auto& [dtype, drift] : {std::pair{at::kFloat, 1e-4}, std::pair{at::kBFloat16, 1.7e-3}}) {
    const auto once = QuantizedTensor::quantize(dense.to(dtype), nf4(64, true));
    const at::Tensor restored = once.dequantize(dtype);
    const auto twice = QuantizedTensor::quantize(restored, nf4(64, true));
    EXPECT_TRUE(same_bits(once.storage()[0], twice.storage()[0]));
    const at::Tensor again = twice.dequantize(dtype).to(at::kFloat);
    EXPECT_LT(((again - restored.to(at::kFloat)).norm() / dense.norm()).item<double>(), drift);

    const auto plain = QuantizedTensor::quantize(dense.to(dtype), nf4(64, false));
    EXPECT_TRUE(same_value(QuantizedTensor::quantize(plain.dequantize(dtype), nf4(64, false)), plain));
  }
}

TEST(QuantizedTensor, ReadsATransposedTensorRowMajor) {
  const at::Tensor dense = normal({40, 70}, 9).t();
  EXPECT_TRUE(
      same_value(QuantizedTensor::quantize(dense, {}), QuantizedTensor::quantize(dense.contiguous(), {})));
}

TEST(QuantizedTensor, IgnoresThatItsSourceRequiresGrad) {
  const at::Tensor dense = normal({4, 64}, 9).set_requires_grad(true);
  for (const QuantFormat& format : {QuantFormat{}, kNone}) {
    EXPECT_FALSE(QuantizedTensor::quantize(dense, format).dequantize(at::kBFloat16).requires_grad());
  }
}

TEST(QuantizedTensor, KnowsItsBytesBeforehand) {
  for (const std::int64_t numel : {0, 1, 2, 31, 32, 63, 64, 65, 5461, 64 * 256, 64 * 256 + 1, 1 << 20}) {
    const at::Tensor dense = normal({numel}, 2);
    for (std::int64_t block_size = 32; block_size <= 4096; block_size *= 2) {
      for (const bool double_quant : {false, true}) {
        const QuantFormat format = nf4(block_size, double_quant);
        ASSERT_EQ(QuantizedTensor::nbytes_for(numel, format, at::kFloat),
                  QuantizedTensor::quantize(dense, format).nbytes())
            << numel << " " << describe(format);
      }
    }
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      EXPECT_EQ(QuantizedTensor::nbytes_for(numel, kNone, dtype),
                QuantizedTensor::quantize(dense.to(dtype), kNone).nbytes());
    }
  }
}

TEST(QuantizedTensor, TakesThePublishedBytesAParameter) {
  const double million = 1 << 20;
  EXPECT_NEAR(QuantizedTensor::nbytes_for(1 << 20, nf4(64, true), at::kFloat) / million, 0.515873, 1e-6);
  EXPECT_EQ(QuantizedTensor::nbytes_for(1 << 20, nf4(64, false), at::kFloat) / million, 0.5625);
}

TEST(QuantizedTensor, DequantizesIntoEveryType) {
  const auto value = QuantizedTensor::quantize(normal({33, 65}, 3), {});
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    at::Tensor out = at::empty({65 * 33}, dtype);
    value.dequantize_into(out);
    EXPECT_TRUE(same_bits(out.view({33, 65}), value.dequantize(at::kFloat).to(dtype)));
  }
}

TEST(QuantizedTensor, RefusesAnOutputThatDoesNotFit) {
  const auto value = QuantizedTensor::quantize(normal({33, 64}, 3), {});
  at::Tensor narrow = at::empty({33, 63});
  EXPECT_THAT(message_of<ShapeError>([&] { value.dequantize_into(narrow); }),
              HasSubstr("2112 elements on cpu, got [33, 63]"));
  at::Tensor transposed = at::empty({64, 33}).t();
  EXPECT_THAT(message_of<ShapeError>([&] { value.dequantize_into(transposed); }),
              HasSubstr("not contiguous"));
  at::Tensor wide = at::empty({33, 64}, at::kDouble);
  EXPECT_THROW(value.dequantize_into(wide), ShapeError);
  EXPECT_THROW(value.dequantize(at::kInt), ShapeError);
}

TEST(QuantizedTensor, RefusesOtherSources) {
  EXPECT_THAT(message_of<ShapeError>([] { QuantizedTensor::quantize(at::zeros({4}, at::kDouble), {}); }),
              HasSubstr("not Double"));
  EXPECT_THROW(QuantizedTensor::quantize(at::zeros({4}), nf4(48, true)), UsageError);
}

TEST(QuantizedTensor, KeepsTheDenseTensorWithoutACodec) {
  at::Tensor dense = normal({5, 7}, 4);
  const auto value = QuantizedTensor::quantize(dense, kNone, at::kBFloat16);
  const at::Tensor before = dense.to(at::kBFloat16);
  dense.zero_();
  EXPECT_TRUE(same_bits(value.dequantize(at::kBFloat16), before));
  EXPECT_TRUE(same_bits(value.dequantize(at::kFloat), before.to(at::kFloat)));
  at::Tensor out = at::empty({35}, at::kHalf);
  value.dequantize_into(out);
  EXPECT_TRUE(same_bits(out.view({5, 7}), before.to(at::kHalf)));
}

TEST(QuantizedTensor, DoesNotShareItsSourceOfTheSameType) {
  at::Tensor dense = at::ones({8});
  const auto value = QuantizedTensor::quantize(dense, kNone);
  dense.zero_();
  EXPECT_TRUE(value.dequantize(at::kFloat).eq(1).all().item<bool>());
}

TEST(QuantizedTensor, IsReplacedByWritingIntoItsStorage) {
  for (const QuantFormat& format : {nf4(64, true), nf4(128, false), kNone}) {
    const auto sent = QuantizedTensor::quantize(normal({30, 61}, 12), format);
    const auto received = QuantizedTensor::empty({30, 61}, format, at::kFloat, at::kCPU);
    EXPECT_TRUE(received.dequantize(at::kFloat).eq(0).all().item<bool>());
    ASSERT_EQ(received.nbytes(), sent.nbytes());
    const auto from = sent.storage();
    auto to = received.storage();
    for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
    EXPECT_TRUE(same_value(received, sent));
    EXPECT_TRUE(same_bits(received.dequantize(at::kBFloat16), sent.dequantize(at::kBFloat16)));
  }
}

TEST(QuantizedTensor, RoundTripsThroughState) {
  for (const QuantFormat& format : {nf4(64, true), nf4(4096, false), kNone}) {
    for (const std::vector<std::int64_t>& sizes :
         {std::vector<std::int64_t>{}, {0, 4}, {31, 17}, {64, 5461}}) {
      const auto value = QuantizedTensor::quantize(normal(sizes, 13), format, at::kBFloat16);
      MemoryState state;
      value.save(state, "layers.0.weight");
      EXPECT_TRUE(same_value(QuantizedTensor::load(state, "layers.0.weight"), value));
      EXPECT_TRUE(
          same_value(QuantizedTensor::load(state, "layers.0.weight", sizes, format, at::kBFloat16), value));
    }
  }
}

TEST(QuantizedTensor, OwnsWhatItLoads) {
  MemoryState state;
  const auto value = QuantizedTensor::quantize(normal({64}, 13), {});
  value.save(state, "w");
  const auto loaded = QuantizedTensor::load(state, "w");
  state.tensors.at("w/codes").zero_();
  EXPECT_TRUE(same_value(loaded, value));
}

class DamagedState : public testing::Test {
 protected:
  DamagedState() { QuantizedTensor::quantize(normal({8, 100}, 14), {}).save(state_, "w"); }

  std::string failure() {
    return message_of<CheckpointError>([&] { QuantizedTensor::load(state_, "w"); });
  }

  MemoryState state_;
};

TEST_F(DamagedState, NamesAMissingPart) {
  for (const char* part : {"w/codes", "w/scale_codes", "w/scale_offset", "w/scale_absmax", "w/sizes"}) {
    MemoryState kept = state_;
    state_.tensors.erase(part);
    EXPECT_THAT(failure(), HasSubstr(part));
    state_ = kept;
  }
}

TEST_F(DamagedState, RefusesAPartOfAnotherSizeOrType) {
  const MemoryState whole = state_;
  for (const char* part : {"w/codes", "w/scale_codes", "w/scale_offset", "w/scale_absmax"}) {
    state_.tensors[part] = at::cat({state_.tensors[part], state_.tensors[part]});
    EXPECT_THAT(failure(), testing::AllOf(HasSubstr(part),
                                          HasSubstr("does not fit a value of [8, 100] in nf4, block 64")));
    state_ = whole;
    state_.tensors[part] = state_.tensors[part].to(at::kInt);
    EXPECT_THAT(failure(), testing::AllOf(HasSubstr(part), HasSubstr("Int")));
    state_ = whole;
  }
}

TEST_F(DamagedState, RefusesImpossibleSizes) {
  for (const std::vector<std::int64_t>& sizes :
       {std::vector<std::int64_t>{-8, 100}, {1LL << 40, 1LL << 40}}) {
    state_.tensors["w/sizes"] = at::tensor(sizes, at::kLong);
    EXPECT_THAT(failure(), HasSubstr("impossible sizes"));
  }
  state_.tensors["w/sizes"] = at::zeros({2});
  EXPECT_THAT(failure(), HasSubstr("not a list of 64-bit integers"));
}

TEST_F(DamagedState, RefusesAFormatItDoesNotKnow) {
  state_.integers["w/block_size"] = 0;
  EXPECT_THAT(failure(), testing::AllOf(HasSubstr("'w'"), HasSubstr("block size 0")));
  state_.texts["w/codec"] = "zip";
  EXPECT_THAT(failure(), HasSubstr("unknown quantization 'zip'"));
}

TEST_F(DamagedState, RefusesAValueOfAnotherRun) {
  const auto load = [&](at::IntArrayRef sizes, const QuantFormat& format) {
    return message_of<CheckpointError>(
        [&] { QuantizedTensor::load(state_, "w", sizes, format, at::kFloat); });
  };
  EXPECT_THAT(load({100, 8}, {}),
              HasSubstr("[8, 100] in nf4, block 64, double quantization in the checkpoint, [100, 8]"));
  EXPECT_THAT(load({8, 100}, nf4(64, false)), HasSubstr("[8, 100] in nf4, block 64 in this run"));

  MemoryState dense;
  QuantizedTensor::quantize(at::ones({3}), kNone).save(dense, "w");
  EXPECT_THAT(
      message_of<CheckpointError>([&] { QuantizedTensor::load(dense, "w", {3}, kNone, at::kBFloat16); }),
      HasSubstr("kept in Float in the checkpoint, in BFloat16 in this run"));
}

TEST(QuantizedTensor, StaysWhatItIsOnItsOwnDevice) {
  const auto value = QuantizedTensor::quantize(normal({99}, 1), {});
  EXPECT_TRUE(same_value(value.to(at::kCPU), value));
  EXPECT_EQ(value.device(), at::Device(at::kCPU));
}

TEST(QuantizedTensor, IsEmptyByDefault) {
  const QuantizedTensor value;
  EXPECT_EQ(value.numel(), 0);
  EXPECT_EQ(value.nbytes(), 0);
}

}  // namespace
}  // namespace kumiko::quant
