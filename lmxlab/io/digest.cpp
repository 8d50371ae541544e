#include "lmxlab/io/digest.h"

#include "lmxlab/base/error.h"

#ifdef __APPLE__
#include <CommonCrypto/CommonDigest.h>
#else
#include <openssl/evp.h>
#endif

#include <array>

namespace lmxlab::io {
namespace {

std::string hexadecimal(const unsigned char* bytes, size_t count) {
  static const char* const kDigits = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < count; ++i) out += kDigits[bytes[i] >> 4], out += kDigits[bytes[i] & 15];
  return out;
}

}  // namespace

#ifdef __APPLE__

struct Digest::State {
  DigestKind kind;
  CC_SHA1_CTX sha1;
  CC_SHA256_CTX sha256;
};

Digest::Digest(DigestKind kind) : state_(std::make_unique<State>()) {
  state_->kind = kind;
  kind == DigestKind::sha1 ? CC_SHA1_Init(&state_->sha1) : CC_SHA256_Init(&state_->sha256);
}

void Digest::add(std::string_view bytes) {
  while (!bytes.empty()) {  // their lengths have 32 bits
    const auto piece = bytes.substr(0, size_t(1) << 30);
    const auto n = static_cast<CC_LONG>(piece.size());
    state_->kind == DigestKind::sha1 ? CC_SHA1_Update(&state_->sha1, piece.data(), n)
                                     : CC_SHA256_Update(&state_->sha256, piece.data(), n);
    bytes.remove_prefix(piece.size());
  }
}

std::string Digest::hex() {
  std::array<unsigned char, CC_SHA256_DIGEST_LENGTH> out{};
  const bool sha1 = state_->kind == DigestKind::sha1;
  sha1 ? CC_SHA1_Final(out.data(), &state_->sha1) : CC_SHA256_Final(out.data(), &state_->sha256);
  return hexadecimal(out.data(), sha1 ? CC_SHA1_DIGEST_LENGTH : CC_SHA256_DIGEST_LENGTH);
}

#else

struct Digest::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
  static void check(bool done) {
    if (!done) throw Error(Kind::internal, "[digest] libcrypto cannot compute a checksum");
  }
};

Digest::Digest(DigestKind kind) : state_(std::make_unique<State>()) {
  const auto* type = kind == DigestKind::sha1 ? EVP_sha1() : EVP_sha256();
  State::check(state_->context && EVP_DigestInit_ex(state_->context, type, nullptr) == 1);
}

void Digest::add(std::string_view bytes) {
  State::check(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Digest::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> out{};
  unsigned int size = 0;
  State::check(EVP_DigestFinal_ex(state_->context, out.data(), &size) == 1);
  return hexadecimal(out.data(), size);
}

#endif

Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

}  // namespace lmxlab::io
