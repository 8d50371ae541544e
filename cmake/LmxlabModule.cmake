# lmxlab_module(NAME): lmxlab/NAME/*.cpp as an object library, with what cmake/layers.txt lets it see.
# lmxlab_tests(NAME): tests/NAME/*_test.cpp as one program and one entry of ctest. COST: its seconds, if it is one of the
#   longest: those begin first, so that none is left running alone.

file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/layers.txt" _layers REGEX "^[a-z]+:")
foreach(line IN LISTS _layers)
  string(REGEX REPLACE "^([a-z]+):.*" "\\1" name "${line}")
  string(REGEX REPLACE "^[a-z]+: *" "" below "${line}")
  separate_arguments(below)
  set_property(GLOBAL PROPERTY LMXLAB_BELOW_${name} "${below}")
endforeach()

add_library(lmxlab_options INTERFACE)
target_compile_features(lmxlab_options INTERFACE cxx_std_20)
target_include_directories(lmxlab_options INTERFACE "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}/generated")
target_compile_options(lmxlab_options INTERFACE -Wall -Wextra $<$<BOOL:${LMXLAB_WERROR}>:-Werror>
  $<$<CXX_COMPILER_ID:GNU>:-Wshadow=local -Wno-maybe-uninitialized -Wno-dangling-pointer -Wno-restrict -Wno-stringop-overflow
    -Wno-stringop-overread -Wno-array-bounds>)
if(LMXLAB_SANITIZE)
  target_compile_options(lmxlab_options INTERFACE -fsanitize=${LMXLAB_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(lmxlab_options INTERFACE -fsanitize=${LMXLAB_SANITIZE})
endif()

# MLX's headers cost a second a file: one precompiled header serves every module that uses them.
if(LMXLAB_PCH)
  file(WRITE "${PROJECT_BINARY_DIR}/generated/pch.cpp" "")
  add_library(lmxlab_pch OBJECT "${PROJECT_BINARY_DIR}/generated/pch.cpp")
  target_link_libraries(lmxlab_pch PRIVATE lmxlab_options lmxlab::mlx)
  target_precompile_headers(lmxlab_pch PRIVATE <mlx/mlx.h> <algorithm> <functional> <map> <memory> <optional>
    <string> <vector>)
endif()

# What every program of tests compiles with. A test's own code is compiled once and run once: at -O1 it takes a third
# less time to compile, and what it calls stays as optimised as ever.
function(lmxlab_test_options target)
  target_link_libraries(${target} PRIVATE lmxlab_options GTest::gtest GTest::gmock)
  target_compile_definitions(${target} PRIVATE LMXLAB_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
endfunction()

# Code that reads settings, plans and prints: it calls what is hot and has no loop of its own. A third less time to compile.
function(lmxlab_compile_quickly target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
endfunction()

# QUICK: compiled as lmxlab_compile_quickly() has it.
function(lmxlab_module name)
  cmake_parse_arguments(arg "QUICK" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/lmxlab/${name}/*.cpp"
    "${PROJECT_SOURCE_DIR}/lmxlab/${name}/*/*.cpp")
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  if(NOT sources)
    return()
  endif()
  add_library(lmxlab_${name} OBJECT ${sources})
  if(arg_QUICK)
    lmxlab_compile_quickly(lmxlab_${name})
  endif()
  get_property(below GLOBAL PROPERTY LMXLAB_BELOW_${name})
  target_link_libraries(lmxlab_${name} PRIVATE lmxlab_options ${arg_LINK})
  if("mlx" IN_LIST below)
    target_link_libraries(lmxlab_${name} PRIVATE lmxlab::mlx)
    if(LMXLAB_PCH)
      target_precompile_headers(lmxlab_${name} REUSE_FROM lmxlab_pch)
    endif()
  endif()
  set_property(GLOBAL APPEND PROPERTY LMXLAB_MODULES ${name})
  set_property(GLOBAL APPEND PROPERTY LMXLAB_LINK ${arg_LINK})
endfunction()

# PURE: only base, config and plan are linked, without MLX. LOWER: only what the kernels and io need.
function(lmxlab_tests name)
  cmake_parse_arguments(arg "PURE;LOWER" "LABEL;COST" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/${name}/*_test.cpp")
  if(NOT sources)
    return()
  endif()
  add_executable(${name}_tests ${sources} "${PROJECT_SOURCE_DIR}/tests/support/test_main.cpp")
  lmxlab_test_options(${name}_tests)
  target_link_libraries(${name}_tests PRIVATE ${arg_LINK})
  if(arg_PURE)
    target_compile_definitions(${name}_tests PRIVATE LMXLAB_TEST_WITHOUT_MLX)
    target_link_libraries(${name}_tests PRIVATE lmxlab_pure)
  else()
    target_link_libraries(${name}_tests PRIVATE $<IF:$<BOOL:${arg_LOWER}>,lmxlab_lower,lmxlab>)
    if(LMXLAB_PCH)
      if(NOT TARGET lmxlab_test_pch)
        add_library(lmxlab_test_pch OBJECT "${PROJECT_BINARY_DIR}/generated/pch.cpp")
        lmxlab_test_options(lmxlab_test_pch)
        target_link_libraries(lmxlab_test_pch PRIVATE lmxlab::mlx)
        set_target_properties(lmxlab_test_pch PROPERTIES POSITION_INDEPENDENT_CODE OFF)  # as programs are compiled
        target_compile_options(lmxlab_test_pch PRIVATE ${CMAKE_CXX_COMPILE_OPTIONS_PIE})
        target_precompile_headers(lmxlab_test_pch PRIVATE <mlx/mlx.h> <gtest/gtest.h> <algorithm> <functional> <map>
          <memory> <optional> <string> <vector>)
      endif()
      target_precompile_headers(${name}_tests REUSE_FROM lmxlab_test_pch)
    endif()
  endif()
  if(NOT arg_LABEL)
    set(arg_LABEL unit)
  endif()
  add_test(NAME ${name} COMMAND ${name}_tests)
  if(NOT arg_COST)
    set(arg_COST 0)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT 900 COST ${arg_COST}
    ENVIRONMENT "LMXLAB_PROGRAM=$<IF:$<BOOL:${LMXLAB_BUILD_CLI}>,${PROJECT_BINARY_DIR}/lmxlab,>;HF_HUB_OFFLINE=1")
endfunction()
