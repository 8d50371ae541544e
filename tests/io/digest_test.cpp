#include "lmxlab/io/digest.h"

#include <gtest/gtest.h>

namespace lmxlab::io {
namespace {

// FIPS 180's examples.
TEST(Digest, KnownValues) {
  const auto of = [](DigestKind kind, std::string_view text) {
    Digest digest(kind);
    digest.add(text);
    return digest.hex();
  };
  EXPECT_EQ(of(DigestKind::sha1, "abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(of(DigestKind::sha256, "abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(of(DigestKind::sha256, ""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(of(DigestKind::sha1, std::string_view("blob 0\0", 7)),
            "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");  // git's empty file
}

TEST(Digest, PiecesAreTheWhole) {
  const std::string text(100'000, 'a');
  Digest digest(DigestKind::sha1);
  for (size_t at = 0, n = 1; at < text.size(); at += n, n = n * 3 % 1009)
    digest.add(std::string_view(text).substr(at, n));
  Digest whole(DigestKind::sha1);
  whole.add(text);
  EXPECT_EQ(digest.hex(), whole.hex());
}

}  // namespace
}  // namespace lmxlab::io
