# Tests that are scripts: the tree's rules, the installation, what the scripts of `make` do.

find_program(BASH_PROGRAM bash REQUIRED)
find_package(Python3 COMPONENTS Interpreter REQUIRED)

function(lmxlab_script_test name label)
  add_test(NAME ${name} COMMAND ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT 600)
endfunction()

lmxlab_script_test(layers layers "${Python3_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/tests/layers/check.py" "${PROJECT_SOURCE_DIR}")
lmxlab_script_test(count_tests platform "${Python3_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/tests/platform/count_tests_test.py"
  "${PROJECT_SOURCE_DIR}")
lmxlab_script_test(mlx_flavour platform "${BASH_PROGRAM}" "${PROJECT_SOURCE_DIR}/tests/platform/flavour.sh" "${PROJECT_SOURCE_DIR}")
lmxlab_script_test(bootstrap platform "${BASH_PROGRAM}" "${PROJECT_SOURCE_DIR}/tests/platform/bootstrap.sh"
  "${PROJECT_SOURCE_DIR}")
lmxlab_script_test(shared_fixtures platform "${CMAKE_COMMAND}" "-DFOLDER=${PROJECT_SOURCE_DIR}/../shared/fixtures"
  -P "${PROJECT_SOURCE_DIR}/tests/platform/shared_fixtures.cmake")

# The list that makes the file set, so what is checked is what is installed.
list(TRANSFORM LMXLAB_HEADERS REPLACE "^${PROJECT_SOURCE_DIR}/" "" OUTPUT_VARIABLE _headers)
list(JOIN _headers "\n" _headers)
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/headers.txt" CONTENT "${_headers}\n")
lmxlab_script_test(public_headers install "${BASH_PROGRAM}" "${PROJECT_SOURCE_DIR}/tests/install/headers.sh" "${PROJECT_SOURCE_DIR}"
  "${PROJECT_BINARY_DIR}/header-checks"
  "${CMAKE_CXX_COMPILER}" "${PROJECT_BINARY_DIR}/generated/headers.txt" "-I${PROJECT_SOURCE_DIR}"
  "-I${PROJECT_BINARY_DIR}/generated" -isystem "${LMXLAB_MLX_ROOT}/include")
set_tests_properties(public_headers PROPERTIES COST 100)

if(TARGET lmxlab_program)
  lmxlab_script_test(no_compiler cli "${BASH_PROGRAM}" "${PROJECT_SOURCE_DIR}/tests/platform/no_compiler.sh"
    "$<TARGET_FILE:lmxlab_program>")
  lmxlab_script_test(pull_https cli "${Python3_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/tests/platform/pull_https.py"
    "${PROJECT_SOURCE_DIR}" "$<TARGET_FILE:lmxlab_program>")
  if(NOT LMXLAB_SANITIZE)
    # Recipes in their short forms, a test each.
    set(_recipes "${Python3_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/tests/recipes/check.py")
    lmxlab_script_test(recipes_rules recipes ${_recipes} rules "${PROJECT_SOURCE_DIR}")
    file(GLOB _recipe_files CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/recipes/*.toml" "${PROJECT_SOURCE_DIR}/recipes/*.sh")
    list(FILTER _recipe_files EXCLUDE REGEX "/common.sh$")
    foreach(file IN LISTS _recipe_files)
      cmake_path(GET file STEM name)
      lmxlab_script_test(recipe_${name} recipes ${_recipes} run "${PROJECT_SOURCE_DIR}" "$<TARGET_FILE:lmxlab_program>"
        "${PROJECT_BINARY_DIR}/recipes" ${name})
    endforeach()
    lmxlab_script_test(install_consumer install "${BASH_PROGRAM}" "${PROJECT_SOURCE_DIR}/tests/install/run.sh" "${PROJECT_SOURCE_DIR}"
      "${PROJECT_BINARY_DIR}" "${CMAKE_COMMAND}" "${CMAKE_CXX_COMPILER}")
  endif()
endif()
