# Compiles on Linux for a Mac with Apple silicon: the compiler of PyPI's ziglang, which carries Apple's libc and libc++ headers.
# scripts/mac_check.sh puts the wrappers and the third-party headers into build/mac-tools.
get_filename_component(_tools "${CMAKE_CURRENT_LIST_DIR}/../../build/mac-tools" ABSOLUTE)
if(NOT EXISTS "${_tools}/c++")
  message(FATAL_ERROR "build/mac-tools is missing: run scripts/mac_check.sh, which makes it.")
endif()
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_VERSION 23.0)
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(CMAKE_OSX_DEPLOYMENT_TARGET "" CACHE STRING "" FORCE)  # the wrapper's -target says it
set(CMAKE_OSX_SYSROOT "" CACHE STRING "" FORCE)
set(CMAKE_CXX_COMPILER "${_tools}/c++")
# Nothing runs: without the checks and debug information that zig adds by itself, 40 % less time.
set(CMAKE_CXX_FLAGS_INIT "-include \"${CMAKE_CURRENT_LIST_DIR}/zig-macos.h\" -fno-sanitize=all -g0")
set(CMAKE_AR "${_tools}/ar" CACHE FILEPATH "")
set(CMAKE_RANLIB "${_tools}/ranlib" CACHE FILEPATH "")
set(CMAKE_INSTALL_NAME_TOOL "${_tools}/nothing" CACHE FILEPATH "")
set(CMAKE_CXX_COMPILER_WORKS TRUE)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
# Nothing of the Linux system may leak in.
set(CMAKE_FIND_ROOT_PATH "${_tools}")
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
