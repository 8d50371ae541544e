# tests/fuzz/*_fuzz.cpp, each a program with libFuzzer's main, on the modules that read files and nothing else.

lmxlab_part(readers base config io data)
target_sources(lmxlab_readers PRIVATE "${PROJECT_SOURCE_DIR}/lmxlab/models/gguf_config.cpp")
target_link_libraries(lmxlab_readers PUBLIC ${LMXLAB_DEP_base} ${LMXLAB_DEP_data} lmxlab::mlx)
target_precompile_headers(lmxlab_readers REUSE_FROM lmxlab_pch)

file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/fuzz/*_fuzz.cpp")
foreach(source IN LISTS sources)
  get_filename_component(target "${source}" NAME_WE)
  add_executable(${target} EXCLUDE_FROM_ALL "${source}")
  target_link_libraries(${target} PRIVATE lmxlab_readers)
  target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  list(APPEND targets ${target})
endforeach()
add_custom_target(fuzzers DEPENDS ${targets})
