#include "lmxlab/data/corpus.h"

#include "lmxlab/base/error.h"
#include "lmxlab/base/files.h"
#include "lmxlab/io/safetensors.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>

namespace lmxlab::data {

bool is_token_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto text = file.text();
  // A header length that fits the file, and the brace that its JSON begins with.
  return text.size() > 9 && text[8] == '{' && text.substr(4, 4) == std::string_view("\0\0\0\0", 4);
}

mx::array token_file(const std::filesystem::path& path, int64_t vocab) {
  const io::SafeTensors file(path);
  if (!file.contains("tokens"))
    throw Error(Kind::bad_data,
                "[data] " + path.string() + " has no tensor `tokens`: it is no file of tokens");
  auto tokens = file.get("tokens");
  if (tokens.ndim() != 1 || (tokens.dtype() != mx::uint16 && tokens.dtype() != mx::uint32))
    throw Error(Kind::bad_data,
                "[data] " + path.string() + ": `tokens` must be uint16 or uint32 [n]");
  if (vocab > 0 && tokens.size() > 0) {
    const auto largest = mx::astype(mx::max(tokens), mx::int64).item<int64_t>();
    if (largest >= vocab)
      throw Error(Kind::mismatch, "[data] " + path.string() + " has the id " +
                                      std::to_string(largest) + ", the vocabulary ends at " +
                                      std::to_string(vocab - 1));
  }
  return tokens;
}

Split split_tokens(const mx::array& tokens, double share) {
  if (!(share >= 0) || share >= 1)
    throw Error(Kind::usage, "[data] validation: expected a share from 0 to below 1, got " +
                                 std::to_string(share));
  const auto n = static_cast<int64_t>(tokens.size());
  const auto held = static_cast<int64_t>(std::llround(share * static_cast<double>(n)));
  const auto part = [&](int64_t from, int64_t to) {
    auto view = mx::slice(tokens, {static_cast<int>(from)}, {static_cast<int>(to)});
    mx::eval(view);  // a view: nothing is copied
    return view;
  };
  return {part(0, n - held), part(n - held, n)};
}

}  // namespace lmxlab::data
