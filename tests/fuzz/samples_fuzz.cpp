// A file of samples; what was read of a chat goes through a template with a byte tokenizer.
#include "lmxlab/data/sample_tokens.h"
#include "tests/fuzz/fuzz.h"

using namespace lmxlab;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const data::SampleTokenizer tokenize(
      data::Tokenizer::bytes(),
      data::ChatTemplate::parse("{% for m in messages %}{{ m.role }}: {{ m.content }};"
                                "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"),
      {.length = 256, .overlong = data::Overlong::shorten});
  fuzz::accepts([&] {
    const auto file = data::parse_samples({reinterpret_cast<const char*>(data), size}, "fuzz");
    const auto made = tokenize(file);
    for (const auto& s : made.sequences)
      if (s.ids.size() != s.loss.size() || s.ids.size() > 256 || s.sample >= file.samples.size())
        fuzz::finding("a sequence of " + std::to_string(s.ids.size()) + " tokens");
  });
  return 0;
}
