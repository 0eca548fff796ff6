// SPDX-License-Identifier: Apache-2.0
#include "quant/int8_state.hpp"

#include <cmath>
#include <limits>

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "framework/core/error.hpp"
#include "quant/int8_state_kernels.hpp"
#include "quant/scale_codec.hpp"
#include "tests/quant/every_target.hpp"

namespace kumiko::quant {
namespace {

using test::normal;
using test::same_bits;

constexpr Int8Map kMaps[] = {Int8Map::with_sign, Int8Map::without_sign};

at::Tensor map_tensor(Int8Map map) {
  const auto& values = map == Int8Map::with_sign ? signed_dynamic_map() : unsigned_dynamic_map();
  return at::tensor(at::ArrayRef<float>(values.data(), values.size()));
}

TEST(Int8State, StartsAtZero) {
  for (const Int8Map map : kMaps) {
    const Int8State state({3, 100}, map);
    const at::Tensor value = state.dequantize();
    EXPECT_EQ(value.sizes(), (at::IntArrayRef{3, 100}));
    EXPECT_TRUE(value.eq(0).all().item<bool>());
  }
}

TEST(Int8State, KeepsEveryValueOfItsMap) {
  for (const Int8Map map : kMaps) {
    const at::Tensor values = map_tensor(map) * 3.0f;
    Int8State state({256}, map);
    state.assign(values);
    EXPECT_TRUE(state.codes().eq(at::arange(256, at::kByte)).all().item<bool>());
    EXPECT_TRUE(same_bits(state.dequantize(), values));
  }
}

// Nearest in fp64 among all 256 values, for numbers over ten decades.
TEST(Int8State, TakesTheNearestValue) {
  for (const Int8Map map : kMaps) {
    const at::Tensor magnitude = at::pow(10.0, normal({2560}, 5).clamp(-2.4, 2.4) * 2);
    const at::Tensor value = map == Int8Map::with_sign ? magnitude * normal({2560}, 6).sign() : magnitude;
    Int8State state({2560}, map);
    state.assign(value);
    const at::Tensor x = value.to(at::kDouble).view({10, 256}) / state.absmax().to(at::kDouble).unsqueeze(1);
    const at::Tensor levels = map_tensor(map).to(at::kDouble);
    const at::Tensor best = std::get<0>((x.unsqueeze(2) - levels).abs().min(2));
    const at::Tensor found = levels.index({state.codes().to(at::kLong)}).view({10, 256});
    EXPECT_LT((((x - found).abs() - best) / x.abs()).max().item<double>(), 1e-6);
  }
}

TEST(Int8State, TakesItsSourceRowMajor) {
  const at::Tensor value = normal({40, 70}, 9).t();
  Int8State a({70, 40}, Int8Map::with_sign);
  Int8State b({70, 40}, Int8Map::with_sign);
  a.assign(value);
  b.assign(value.contiguous());
  EXPECT_TRUE(same_bits(a.dequantize(), b.dequantize()));
}

TEST(Int8State, IsReplacedByWritingIntoItsStorage) {
  Int8State sent({1000}, Int8Map::with_sign);
  sent.assign(normal({1000}, 3));
  const Int8State received({1000}, Int8Map::with_sign);
  for (std::size_t i = 0; i < 2; ++i) received.storage()[i].copy_(sent.storage()[i]);
  EXPECT_TRUE(same_bits(received.dequantize(), sent.dequantize()));
}

TEST(Int8State, KnowsItsBytesBeforehand) {
  for (const std::int64_t numel : {0, 1, 256, 257, 1000}) {
    const Int8State state({numel}, Int8Map::without_sign);
    std::int64_t bytes = 0;
    for (const at::Tensor& part : state.storage()) bytes += static_cast<std::int64_t>(part.nbytes());
    EXPECT_EQ(state.nbytes(), bytes);
  }
  EXPECT_EQ(Int8State::nbytes_for(1000), 1016);
}

TEST(Int8State, RefusesOtherSizesAndTypes) {
  Int8State state({4, 5}, Int8Map::with_sign);
  EXPECT_THROW(state.assign(at::zeros({5, 4})), ShapeError);
  EXPECT_THROW(state.assign(at::zeros({4, 5}, at::kBFloat16)), ShapeError);
}

struct Adam {
  explicit Adam(std::int64_t numel)
      : first({numel}, Int8Map::with_sign), second({numel}, Int8Map::without_sign) {}

  Int8State first;
  Int8State second;
};

// m = 0.05, v = 0.00025; both corrected are g and g^2, so that w = 0.99 - 0.1 sign(g). Then, without a
// gradient, m = 0.045, v = 0.00024975, corrected 0.045 / 0.19 and 0.00024975 / 0.001999.
TEST(Adam8bit, TakesHandCheckedSteps) {
  at::Tensor value = at::tensor({1.0f, 1.0f});
  Adam state(2);
  adam8bit_step(value, at::tensor({0.5f, -0.5f}), state.first, state.second, {0.1, 0.9, 0.999, 1e-8, 0.1, 1});
  EXPECT_NEAR(value[0].item<float>(), 0.89f, 1e-6);
  EXPECT_NEAR(value[1].item<float>(), 1.09f, 1e-6);
  EXPECT_NEAR(state.first.absmax().item<float>(), 0.05f, 1e-8);
  EXPECT_NEAR(state.second.absmax().item<float>(), 0.00025f, 1e-10);
  EXPECT_EQ(state.first.codes()[0].item<int>(), 255);
  EXPECT_EQ(state.first.codes()[1].item<int>(), 0);  // -1 is no level of the map: -0.9929688 is the lowest
  EXPECT_EQ(state.second.codes()[1].item<int>(), 255);

  adam8bit_step(value, at::zeros({2}), state.first, state.second, {0.1, 0.9, 0.999, 1e-8, 0.0, 2});
  const double change = 0.1 * (0.045 / 0.19) / std::sqrt(0.00024975 / 0.001999);
  EXPECT_NEAR(value[0].item<float>(), 0.89 - change, 1e-6);
  EXPECT_NEAR(value[1].item<float>(), 1.09 + 0.9929688 * change, 1e-6);
}

// With one element a block nothing is lost: Adam in fp64.
TEST(Adam8bit, EqualsAdamWhereTheStateIsExact) {
  at::Tensor value = at::tensor({0.3f});
  Adam state(1);
  double w = 0.3f, m = 0, v = 0;
  for (int step = 1; step <= 40; ++step) {
    const float g = std::abs(std::sin(static_cast<float>(step)));
    adam8bit_step(value, at::tensor({g}), state.first, state.second, {0.01, 0.9, 0.99, 0.1, 0.05, step});
    m = 0.9 * m + 0.1 * g;
    v = 0.99 * v + 0.01 * g * g;
    const double corrected = std::sqrt(v / (1 - std::pow(0.99, step))) + 0.1;
    w = w * (1 - 0.01 * 0.05) - 0.01 * m / (1 - std::pow(0.9, step)) / corrected;
    EXPECT_NEAR(value.item<float>(), w, 2e-6) << step;
  }
}

TEST(Adam8bit, DoesNotDependOnThreads) {
  const int threads = at::get_num_threads();
  constexpr std::int64_t kNumel = 256 * 1000 + 33;
  std::vector<at::Tensor> results;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    at::Tensor value = normal({kNumel}, 1);
    Adam state(kNumel);
    for (int step = 1; step <= 3; ++step)
      adam8bit_step(value, normal({kNumel}, step), state.first, state.second,
                    {0.01, 0.9, 0.99, 1e-8, 0.1, step});
    results.push_back(value);
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(same_bits(results[0], results[1]));
  EXPECT_TRUE(same_bits(results[0], results[2]));
}

TEST(Adam8bit, RefusesWhatDoesNotFit) {
  Adam state(6);
  const Adam8bitStep step{0.1, 0.9, 0.999, 1e-8, 0.0, 1};
  at::Tensor value = at::zeros({6});
  at::Tensor transposed = at::zeros({3, 2}).t();
  EXPECT_THROW(adam8bit_step(value, at::zeros({5}), state.first, state.second, step), ShapeError);
  EXPECT_THROW(adam8bit_step(value, at::zeros({6}, at::kHalf), state.first, state.second, step), ShapeError);
  EXPECT_THROW(adam8bit_step(transposed, at::zeros({6}), state.first, state.second, step), ShapeError);
  at::Tensor longer = at::zeros({7});
  EXPECT_THROW(adam8bit_step(longer, at::zeros({7}), state.first, state.second, step), ShapeError);
}

class Int8StateEveryTarget : public test::EveryTarget {
 protected:
  struct Parts {
    at::Tensor codes;
    at::Tensor absmax;

    StateBlocks blocks() const {
      return {codes.mutable_data_ptr<std::uint8_t>(), absmax.mutable_data_ptr<float>()};
    }
  };

  static Parts parts(std::int64_t numel) {
    return {at::zeros({numel}, at::kByte), at::zeros({(numel + 255) / 256}, at::kFloat)};
  }

  void expect_equal_codes(Int8Map map, const at::Tensor& dense) {
    const std::int64_t numel = dense.numel();
    const Parts expected = parts(numel), found = parts(numel);
    reference::state_encode(map, dense.const_data_ptr<float>(), numel, expected.blocks());
    force(GetParam());
    cpu::state_encode(map, dense.const_data_ptr<float>(), numel, found.blocks());
    ASSERT_TRUE(same_bits(found.codes, expected.codes)) << numel;
    ASSERT_TRUE(test::same_numbers(found.absmax, expected.absmax)) << numel;
    at::Tensor plain = at::empty({numel}), fast = at::empty({numel});
    reference::state_decode(map, expected.blocks(), numel, plain.mutable_data_ptr<float>());
    cpu::state_decode(map, expected.blocks(), numel, fast.mutable_data_ptr<float>());
    ASSERT_TRUE(test::same_numbers(fast, plain)) << numel;
  }
};

INSTANTIATE_TEST_SUITE_P(Targets, Int8StateEveryTarget, test::every_target(), test::target_name);

TEST_P(Int8StateEveryTarget, TakesTheReferencesCodesAroundEveryBorder) {
  for (const Int8Map map : kMaps) {
    const at::Tensor values = map_tensor(map);
    const at::Tensor middle = (values.slice(0, 1) + values.slice(0, 0, 255)) / 2;
    for (const float towards : {-2.0f, 0.0f, 2.0f}) {
      at::Tensor row = at::ones({256});
      row.slice(0, 0, 255).copy_(towards == 0.0f ? middle : at::nextafter(middle, at::full({}, towards)));
      expect_equal_codes(map, row);
    }
  }
}

TEST_P(Int8StateEveryTarget, TakesTheReferencesCodesOfAllBf16Numbers) {
  at::Tensor all = at::arange(65536, at::kInt).to(at::kShort).view(at::kBFloat16).to(at::kFloat);
  for (const Int8Map map : kMaps) {
    expect_equal_codes(map, all);
    at::Tensor scaled = all.masked_select(all.abs().le(1.0f));
    scaled = scaled.slice(0, 0, scaled.numel() / 256 * 256).clone();
    scaled.view({-1, 256}).select(1, 7).fill_(1.0f);
    expect_equal_codes(map, scaled);
  }
}

TEST_P(Int8StateEveryTarget, TakesTheReferencesCodesAtEveryShortCount) {
  for (std::int64_t numel = 0; numel <= 300; numel += 7) {
    for (const Int8Map map : kMaps) expect_equal_codes(map, normal({numel}, numel).abs());
  }
}

TEST_P(Int8StateEveryTarget, StepsAsTheReferenceDoes) {
  for (const std::int64_t numel : {1, 255, 256, 1000, 4096}) {
    at::Tensor plain = normal({numel}, 1), fast = plain.clone();
    const Parts plain_first = parts(numel), plain_second = parts(numel);
    const Parts fast_first = parts(numel), fast_second = parts(numel);
    for (int step = 1; step <= 10; ++step) {
      const at::Tensor grad = normal({numel}, step) * at::pow(10.0, normal({numel}, 50) * 2);
      const float correction = static_cast<float>(std::sqrt(1 - std::pow(0.99, step)));
      const AdamFactors factors{0.9f, 0.1f, 0.99f, 0.01f, correction, 1e-8f, 0.999f, -0.01f};
      reference::adam8bit(factors, plain.mutable_data_ptr<float>(), grad.const_data_ptr<float>(), numel,
                          plain_first.blocks(), plain_second.blocks());
      force(GetParam());
      cpu::adam8bit(factors, fast.mutable_data_ptr<float>(), grad.const_data_ptr<float>(), numel,
                    fast_first.blocks(), fast_second.blocks());
      ASSERT_TRUE(same_bits(fast, plain)) << numel << " elements, step " << step;
      ASSERT_TRUE(same_bits(fast_first.codes, plain_first.codes)) << numel << " elements, step " << step;
      ASSERT_TRUE(same_bits(fast_second.codes, plain_second.codes)) << numel << " elements, step " << step;
      ASSERT_TRUE(same_bits(fast_first.absmax, plain_first.absmax)) << numel << " elements, step " << step;
      ASSERT_TRUE(same_bits(fast_second.absmax, plain_second.absmax)) << numel << " elements, step " << step;
    }
  }
}

}  // namespace
}  // namespace kumiko::quant
