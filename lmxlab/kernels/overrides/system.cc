// MLX's CPU build asks once, by `system("g++ --version ...")`, whether there is a compiler; without
// one `compile` would not even trace. The library never lets it compile (core/runtime.h), so the
// answer is yes without a process being started: a run then needs no compiler, starts no shell, and
// is not deaf to Ctrl-C meanwhile, as system() is.
#include <dlfcn.h>

#include <cstring>

extern "C" __attribute__((visibility("default"))) int system(const char* command) {
  if (command && std::strcmp(command, "g++ --version > /dev/null 2>&1") == 0) return 0;
  using Function = int (*)(const char*);
  static const auto theirs = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "system"));
  return theirs ? theirs(command) : -1;
}
