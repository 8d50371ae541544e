// A SentencePiece model file.
#include "lmxlab/data/tokenizer/parts.h"
#include "tests/fuzz/tokenizer.h"

using namespace lmxlab;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  data::is_sentencepiece(bytes);
  fuzz::accepts([&] { fuzz::use(data::Tokenizer(data::parts_from_sentencepiece(bytes))); });
  return 0;
}
