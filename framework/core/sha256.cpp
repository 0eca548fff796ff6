// SPDX-License-Identifier: Apache-2.0
#include "framework/core/sha256.hpp"

#include <c10/util/Exception.h>
#include <openssl/evp.h>

namespace kumiko {

void Sha256::Free::operator()(evp_md_ctx_st* context) const noexcept { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  TORCH_INTERNAL_ASSERT(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
}

Sha256& Sha256::update(std::span<const std::byte> bytes) {
  const int done = EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  TORCH_INTERNAL_ASSERT(done == 1);
  return *this;
}

Sha256& Sha256::update(std::string_view bytes) { return update(std::as_bytes(std::span(bytes))); }

std::array<std::byte, 32> Sha256::digest() {
  std::array<std::byte, 32> result{};
  const int done =
      EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(result.data()), nullptr);
  TORCH_INTERNAL_ASSERT(done == 1);
  return result;
}

std::string Sha256::hex() { return to_hex(digest()); }

std::string Sha256::hex_of(std::span<const std::byte> bytes) { return Sha256().update(bytes).hex(); }

std::string to_hex(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string result;
  result.reserve(2 * bytes.size());
  for (const std::byte value : bytes) {
    result.push_back(kDigits[std::to_integer<unsigned>(value) >> 4]);
    result.push_back(kDigits[std::to_integer<unsigned>(value) & 15]);
  }
  return result;
}

}  // namespace kumiko
