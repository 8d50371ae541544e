# The documents: what they say of the code, and every code block of theirs, compiled or run.
find_package(Python3 COMPONENTS Interpreter REQUIRED)
set(_snippets_script "${PROJECT_SOURCE_DIR}/tests/docs/snippets.py")
set(_snippets "${PROJECT_BINARY_DIR}/snippets")

lmxlab_tests(docs LABEL docs)
add_test(NAME snippets_rules COMMAND "${Python3_EXECUTABLE}" "${_snippets_script}" self-check)
set_tests_properties(snippets_rules PROPERTIES LABELS docs TIMEOUT 60)

# The programs are extracted when CMake runs, which it does again when a page changes.
file(GLOB_RECURSE _pages CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/docs/*.md")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/README.md" ${_pages}
  "${_snippets_script}")
execute_process(COMMAND "${Python3_EXECUTABLE}" "${_snippets_script}" extract "${PROJECT_SOURCE_DIR}" "${_snippets}"
  OUTPUT_VARIABLE _names OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
foreach(name IN LISTS _names)
  add_executable(snippet_${name} "${_snippets}/${name}.cpp")
  target_link_libraries(snippet_${name} PRIVATE lmxlab)
  set_target_properties(snippet_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${_snippets}")
  file(MAKE_DIRECTORY "${_snippets}/run-${name}")
  add_test(NAME snippet_${name} COMMAND snippet_${name} WORKING_DIRECTORY "${_snippets}/run-${name}")
  set_tests_properties(snippet_${name} PROPERTIES LABELS docs TIMEOUT 300)
endforeach()
if(LMXLAB_BUILD_CLI)
  add_test(NAME snippets COMMAND "${Python3_EXECUTABLE}" "${_snippets_script}" run "${PROJECT_SOURCE_DIR}"
    "${PROJECT_BINARY_DIR}/lmxlab" "${_snippets}")
  set_tests_properties(snippets PROPERTIES LABELS docs TIMEOUT 600 COST 60)
  if(LMXLAB_MLX_FLAVOUR STREQUAL "cpu" AND CMAKE_SYSTEM_NAME STREQUAL "Linux")  # bytes and nodes that the pages quote
    set_property(TEST snippets PROPERTY ENVIRONMENT LMXLAB_DOCS_OUTPUT=1)
  endif()
endif()
