# tests/fuzz/*_fuzz.cpp, each a program with libFuzzer's main, on what reads files and nothing else: it is built anew for them,
# with sanitizers, and the rest would take minutes.

file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/lmxlab/base/*.cpp" "${PROJECT_SOURCE_DIR}/lmxlab/config/*.cpp"
  "${PROJECT_SOURCE_DIR}/lmxlab/config/*/*.cpp" "${PROJECT_SOURCE_DIR}/lmxlab/io/*.cpp" "${PROJECT_SOURCE_DIR}/lmxlab/data/*.cpp"
  "${PROJECT_SOURCE_DIR}/lmxlab/data/*/*.cpp")
list(FILTER sources EXCLUDE REGEX "/(data/(batches|build|conversation|corpus|packing|tokenizer_train)|io/(http|hub|hub_cache|blob_file|digest))\\.cpp$")
add_library(lmxlab_readers STATIC EXCLUDE_FROM_ALL ${sources} "${PROJECT_SOURCE_DIR}/lmxlab/models/gguf_config.cpp"
  "${PROJECT_SOURCE_DIR}/lmxlab/models/gguf_names.cpp")
target_link_libraries(lmxlab_readers PUBLIC lmxlab_options ${LMXLAB_DEP_base} ${LMXLAB_DEP_data} lmxlab::mlx)
if(LMXLAB_PCH)
  target_precompile_headers(lmxlab_readers REUSE_FROM lmxlab_pch)
endif()

set(fuzzers "")
file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/fuzz/*_fuzz.cpp")
foreach(source IN LISTS sources)
  get_filename_component(fuzzer "${source}" NAME_WE)
  add_executable(${fuzzer} EXCLUDE_FROM_ALL "${source}")
  target_link_libraries(${fuzzer} PRIVATE lmxlab_readers)
  target_link_options(${fuzzer} PRIVATE -fsanitize=fuzzer)
  list(APPEND fuzzers ${fuzzer})
endforeach()
add_custom_target(fuzzers DEPENDS ${fuzzers})
