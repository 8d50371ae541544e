// A tokenizer.json, alone or as {"tokenizer": ..., "config": ...} with its tokenizer_config.json.
#include "tests/fuzz/tokenizer.h"

using namespace lmxlab;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  fuzz::accepts([&] {
    const Json root = Json::parse(bytes);
    const Json *tokenizer = root.find("tokenizer"), *config = root.find("config");
    fuzz::use(tokenizer ? data::Tokenizer::from_json(*tokenizer, config ? *config : Json())
                        : data::Tokenizer::from_bytes(bytes, "tokenizer.json"));
  });
  return 0;
}
