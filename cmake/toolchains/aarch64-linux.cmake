# Compiles on x86 Linux for Linux on Arm with Debian's cross compiler; what is built runs under qemu-user. scripts/arm64.sh puts
# the third-party headers into build/arm64-tools.
get_filename_component(_tools "${CMAKE_CURRENT_LIST_DIR}/../../build/arm64-tools" ABSOLUTE)
if(NOT EXISTS "${_tools}/include")
  message(FATAL_ERROR "build/arm64-tools is missing: run scripts/arm64.sh, which makes it.")
endif()
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;/usr/aarch64-linux-gnu")
# Nothing of the host may leak in.
set(CMAKE_FIND_ROOT_PATH "${_tools}" /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
