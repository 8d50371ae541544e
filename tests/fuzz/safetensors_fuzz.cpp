// A safetensors file: its header, and the bytes of every tensor that the header admits.
#include "tests/fuzz/fuzz.h"

#include "lmxlab/io/safetensors.h"

using namespace lmxlab;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::MemoryFile file({reinterpret_cast<const char*>(data), size});
  fuzz::accepts([&] {
    const io::SafeTensors tensors(file.path());
    unsigned sum = 0;
    for (const auto& name : tensors.names())
      fuzz::accepts([&] {
        const auto a = tensors.get(name);
        const auto* bytes = a.data<uint8_t>();
        for (size_t i = 0; i < a.nbytes(); i++) sum += bytes[i];
      });
    volatile unsigned kept = sum;
    (void)kept;
  });
  return 0;
}
