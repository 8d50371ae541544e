# Other people's libraries; docs/dependencies.md says why each is here. Each stays behind one header of ours.

find_path(NLOHMANN_JSON_INCLUDE nlohmann/json.hpp REQUIRED)
add_library(lmxlab_nlohmann_json INTERFACE)
target_include_directories(lmxlab_nlohmann_json SYSTEM INTERFACE "${NLOHMANN_JSON_INCLUDE}")
find_path(TOMLPP_INCLUDE toml++/toml.h REQUIRED)
add_library(lmxlab_tomlpp INTERFACE)
target_include_directories(lmxlab_tomlpp SYSTEM INTERFACE "${TOMLPP_INCLUDE}")
set(LMXLAB_DEP_base lmxlab_nlohmann_json lmxlab_tomlpp)

find_library(PCRE2_LIBRARY pcre2-8 REQUIRED)
find_path(PCRE2_INCLUDE pcre2.h REQUIRED)
add_library(lmxlab_pcre2 INTERFACE)
target_link_libraries(lmxlab_pcre2 INTERFACE "${PCRE2_LIBRARY}")
target_include_directories(lmxlab_pcre2 SYSTEM INTERFACE "${PCRE2_INCLUDE}")
find_package(Threads REQUIRED)
find_library(UTF8PROC_LIBRARY utf8proc REQUIRED)
find_path(UTF8PROC_INCLUDE utf8proc.h REQUIRED)
add_library(lmxlab_utf8proc INTERFACE)
target_link_libraries(lmxlab_utf8proc INTERFACE "${UTF8PROC_LIBRARY}")
target_include_directories(lmxlab_utf8proc SYSTEM INTERFACE "${UTF8PROC_INCLUDE}")
set(LMXLAB_DEP_data lmxlab_pcre2 lmxlab_utf8proc Threads::Threads)

# libcurl for downloads, libcrypto for their checksums. Of libcurl only headers are needed here: the program opens it when it
# downloads. A Mac has both: headers in the SDK, checksums in the C library.
add_library(lmxlab_curl INTERFACE)
target_link_libraries(lmxlab_curl INTERFACE ${CMAKE_DL_LIBS})
if(NOT APPLE OR CMAKE_CROSSCOMPILING)
  find_path(CURL_INCLUDE curl/curl.h REQUIRED)
  target_include_directories(lmxlab_curl SYSTEM INTERFACE "${CURL_INCLUDE}")
endif()
set(LMXLAB_DEP_io lmxlab_curl)
if(NOT APPLE)
  find_library(CRYPTO_LIBRARY crypto REQUIRED)
  find_path(CRYPTO_INCLUDE openssl/evp.h REQUIRED)
  add_library(lmxlab_crypto INTERFACE)
  target_link_libraries(lmxlab_crypto INTERFACE "${CRYPTO_LIBRARY}")
  target_include_directories(lmxlab_crypto SYSTEM INTERFACE "${CRYPTO_INCLUDE}")
  list(APPEND LMXLAB_DEP_io lmxlab_crypto)
endif()

set(LMXLAB_DEP_kernels Threads::Threads)

# Highway: on x86 kernels are compiled once per instruction set and chosen at run time, by its library. Elsewhere they are
# compiled for the one set that the architecture always has (NEON), and the headers suffice.
find_path(HWY_INCLUDE hwy/highway.h REQUIRED)
add_library(lmxlab_hwy INTERFACE)
target_include_directories(lmxlab_hwy SYSTEM INTERFACE "${HWY_INCLUDE}")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  find_library(HWY_LIBRARY hwy REQUIRED)
  target_link_libraries(lmxlab_hwy INTERFACE "${HWY_LIBRARY}")
  target_compile_definitions(lmxlab_hwy INTERFACE HWY_DISABLED_TARGETS=HWY_SSSE3)  # no processor of the last 15 years stops there
else()
  # Headers alone: their assertions of debug builds would call the library.
  target_compile_definitions(lmxlab_hwy INTERFACE HWY_COMPILE_ONLY_STATIC HWY_IS_DEBUG_BUILD=0)
endif()
list(APPEND LMXLAB_DEP_kernels lmxlab_hwy)
