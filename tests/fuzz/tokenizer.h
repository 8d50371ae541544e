// What every fuzz target of a tokenizer's format does with one that was read.
#pragma once

#include "lmxlab/data/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <vector>

namespace lmxlab::fuzz {

/// Texts to ids and back, whole and by pieces; what is written is read as the same.
inline void use(const data::Tokenizer& tokenizer) {
  static const std::vector<std::string> texts = {
      "Hello, World! It's 2024,  don't\n\n\tpanic \r\n",
      " \xC3\xA9t\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xF0\x9F\x98\x80 e\xCC\x81 "
      "\xEF\xAC\x81 \xE2\x96\x81",
      "<s>[INST] ab abab </s><|x|>", std::string(300, 'a')};
  data::EncodeOptions whole;
  whole.add_special = true;
  whole.truncate_and_pad = true;
  for (const auto& text : texts)
    accepts([&] {
      const auto ids = tokenizer.encode_ids(text);
      for (const int id : ids)
        if (id < 0 || id >= tokenizer.vocab_size()) finding("an id outside the vocabulary");
      data::StreamDecoder stream(tokenizer);
      std::string pieces;
      for (const int id : ids) pieces += stream.push(id);
      pieces += stream.finish();
      const auto decoded = tokenizer.decode(ids);
      if (decoded != pieces)
        finding("decoded at once \"" + decoded + "\", in pieces \"" + pieces + "\"");
      tokenizer.encode_all(text, whole);
      tokenizer.encode_pair(text, texts[0], whole);
    });
  // What we write is what we read.
  accepts([&] {
    const auto written = tokenizer.to_json().dump();
    std::string again;
    if (!accepts(
            [&] { again = data::Tokenizer::from_json(Json::parse(written)).to_json().dump(); }))
      finding("what was written is refused: " + written);
    if (again != written) finding("written " + written + "\nand again " + again);
  });
}

}  // namespace lmxlab::fuzz
