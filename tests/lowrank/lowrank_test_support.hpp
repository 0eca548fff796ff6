// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <utility>

#include <ATen/ATen.h>

#include "framework/core/error.hpp"
#include "framework/core/rng.hpp"
#include "lowrank/projector.hpp"

namespace kumiko::lowrank::test {

inline constexpr quant::QuantFormat kDense{quant::CodecKind::none, 64, false};
inline constexpr quant::QuantFormat kNf4{quant::CodecKind::nf4, 64, false};
inline constexpr quant::QuantFormat kNestedNf4{quant::CodecKind::nf4, 64, true};

// |a - b|_F / |b|_F
inline double relative(const at::Tensor& a, const at::Tensor& b) {
  return (at::norm(a.to(at::kDouble) - b.to(at::kDouble)) / at::norm(b.to(at::kDouble)).clamp_min(1e-30))
      .item<double>();
}

inline at::Tensor normal(at::IntArrayRef sizes, std::uint64_t seed, double std = 1.0) {
  at::Tensor values = at::empty(sizes, at::kFloat);
  fill_normal(values, std, seed);
  return values;
}

inline at::Tensor orthonormal_columns(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  return std::get<0>(at::linalg_qr(normal({rows, columns}, seed).to(at::kDouble), "reduced")).to(at::kFloat);
}

// [rows, columns] with singular values 1, 2^-power, 3^-power, ... up to `rank` of them.
inline at::Tensor power_law(std::int64_t rows, std::int64_t columns, double power, std::uint64_t seed,
                            std::int64_t rank = -1) {
  const std::int64_t count = rank < 0 ? std::min(rows, columns) : rank;
  const at::Tensor values = at::arange(1, count + 1, at::kFloat).pow(-power);
  return at::mm(orthonormal_columns(rows, count, seed).mul(values),
                orthonormal_columns(columns, count, seed + 1).t());
}

// |P^T-part of G|^2 / |G|^2 of a basis [dim, r], in fp64, from the definition.
inline double energy(const at::Tensor& gradient, const at::Tensor& basis, Side side) {
  const at::Tensor g = gradient.to(at::kDouble);
  const at::Tensor p = basis.to(at::kDouble);
  const at::Tensor kept = side == Side::input ? at::mm(g, p) : at::mm(g.t(), p);
  return (kept.square().sum() / g.square().sum()).item<double>();
}

// sum of the r largest sigma^2 / sum of all: the most that any basis of r columns keeps.
inline double best_energy(const at::Tensor& gradient, std::int64_t rank) {
  const at::Tensor squares = at::linalg_svdvals(gradient.to(at::kDouble)).square();
  return (squares.narrow(0, 0, rank).sum() / squares.sum()).item<double>();
}

template <class E>
std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

}  // namespace kumiko::lowrank::test
