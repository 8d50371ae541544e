// A GGUF file: its values and tensors, what becomes numbers, and the config, the tokenizer and the
// chat template that it carries.
#include "lmxlab/config/validate.h"
#include "lmxlab/data/chat_template.h"
#include "lmxlab/data/gguf_file.h"
#include "lmxlab/io/ggml_blocks.h"
#include "lmxlab/models/gguf_config.h"
#include "tests/fuzz/tokenizer.h"

using namespace lmxlab;

namespace {

void read_tensors(const io::Gguf& file) {
  unsigned sum = 0;
  for (const auto& [name, t] : file.tensors()) {
    fuzz::accepts([&, &name = name, &type = *t.type] {
      const auto raw = file.raw(name);
      for (size_t i = 0; i < raw.nbytes(); i++) sum += raw.data<uint8_t>()[i];
      if (io::has_numbers(type)) io::block_numbers(type, raw);
    });
    fuzz::accepts([&, &name = name] { file.get(name); });
  }
  volatile unsigned kept = sum;
  (void)kept;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::MemoryFile bytes({reinterpret_cast<const char*>(data), size});
  fuzz::accepts([&] {
    const io::Gguf file(bytes.path());
    for (const auto& [key, value] : file.metadata())
      if (value.type() == io::GgufValue::Type::array) value.as_array();
    read_tensors(file);
    fuzz::accepts([&] { config::validate(read_gguf_config(file).model, Kind::internal); });
    fuzz::accepts([&] { fuzz::use(data::tokenizer_from_gguf(data::read_gguf_vocabulary(file))); });
    fuzz::accepts([&] { data::ChatTemplate::from_config(data::gguf_tokenizer_config(file)); });
  });
  return 0;
}
