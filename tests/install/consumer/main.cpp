// An application on the installed library: it computes, in a thread of its own, and catches the library's errors.
//   consumer FOLDER
#include <mlx/mlx.h>

#include <cstdio>
#include <string>
#include <thread>

#include "lmxlab/base/error.h"
#include "lmxlab/base/files.h"

int main(int argc, char** argv) {
  int code = 1;
  std::thread worker([&] {
    try {
      auto sum = mlx::core::sum(mlx::core::matmul(mlx::core::ones({64, 32}), mlx::core::ones({32, 16})));
      std::printf("sum %g\n", sum.item<float>());
      if (argc > 1) throw lmxlab::Error(lmxlab::Kind::not_found, std::string("[consumer] no model in ") + argv[1]);
      code = 0;
    } catch (const lmxlab::Error& error) {
      std::printf("caught %s: %s\n", std::string(lmxlab::kind_name(error.kind())).c_str(), error.what());
      code = lmxlab::exit_code(error.kind());
    }
  });
  worker.join();
  return code;
}
