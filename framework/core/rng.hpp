// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: a value depends on (seed, stream, index) only, so nothing has to be saved for a resume
// and nothing depends on ranks or threads.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace kumiko {

// SplitMix64's finalizer (Steele, Lea, Flood 2014): a bijection of 64-bit words with full avalanche.
constexpr std::uint64_t mix64(std::uint64_t x) noexcept {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// Seed of a named stream: stream_seed(42, "model.norm.weight").
std::uint64_t stream_seed(std::uint64_t seed, std::string_view stream) noexcept;

// Fills a CPU fp32 tensor with N(0, std^2), independent of thread count.
void fill_normal(at::Tensor& out, double std, std::uint64_t seed);

// Fills a CPU fp32 tensor with uniform numbers in (-bound, bound), symmetric about 0, which does not occur; independent of
// thread count, and the same bits on all machines.
void fill_uniform(at::Tensor& out, double bound, std::uint64_t seed);

}  // namespace kumiko
