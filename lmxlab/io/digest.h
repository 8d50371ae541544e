// SHA-1 and SHA-256 by the system's library (libcrypto; CommonCrypto on a Mac), fed in pieces.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace lmxlab::io {

enum class DigestKind { sha1, sha256 };

class Digest {
 public:
  explicit Digest(DigestKind kind);
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;

  void add(std::string_view bytes);
  /// In lower-case hexadecimal digits. The last call.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lmxlab::io
