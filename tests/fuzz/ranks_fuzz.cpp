// tiktoken's ranks and Mistral's tekken.json; vocab.txt, and vocab.json with merges.txt, divided by
// a zero byte.
#include "lmxlab/data/tokenizer/parts.h"
#include "tests/fuzz/tokenizer.h"

using namespace lmxlab;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  data::TiktokenOptions options;
  if (!bytes.starts_with('{')) options.pattern = R"('s| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+)";
  fuzz::accepts([&] { fuzz::use(data::Tokenizer::from_bytes(bytes, "ranks", options)); });
  fuzz::accepts(
      [&] { fuzz::use(data::Tokenizer(data::parts_from_word_list(bytes, size % 2 == 0))); });
  if (const auto zero = bytes.find('\0'); zero != bytes.npos)
    fuzz::accepts([&] {
      fuzz::use(data::Tokenizer(
          data::parts_from_merges(Json::parse(bytes.substr(0, zero)), bytes.substr(zero + 1))));
    });
  return 0;
}
