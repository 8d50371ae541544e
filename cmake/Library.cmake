# liblmxlab.a from every module, and lmxlab_overrides: definitions that must win over libmlx's (allocator, GEMM).
# They come as objects, since in an archive behind libmlx on the link line they would lose without a word.

get_property(_modules GLOBAL PROPERTY LMXLAB_MODULES)
get_property(_links GLOBAL PROPERTY LMXLAB_LINK)
list(REMOVE_DUPLICATES _links)
set(_objects "")
foreach(name IN LISTS _modules)
  list(APPEND _objects $<TARGET_OBJECTS:lmxlab_${name}>)
endforeach()
# Compiled already, with the same headers of MLX: another flavour only has to be linked (scripts/cuda_check.sh).
set(LMXLAB_PREBUILT "" CACHE FILEPATH "a liblmxlab.a that is linked in place of compiling one")
if(LMXLAB_PREBUILT)
  file(WRITE "${PROJECT_BINARY_DIR}/generated/prebuilt.cpp" "")
  set(_objects "${PROJECT_BINARY_DIR}/generated/prebuilt.cpp")
endif()
add_library(lmxlab STATIC ${_objects})
target_link_libraries(lmxlab INTERFACE ${LMXLAB_PREBUILT})
add_library(lmxlab::lmxlab ALIAS lmxlab)
target_link_libraries(lmxlab PUBLIC lmxlab_options)

if(LMXLAB_MLX_FLAVOUR MATCHES "cpu|cuda" AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
  set(_place "${PROJECT_SOURCE_DIR}/lmxlab/kernels/overrides")
  if(LMXLAB_MLX_FLAVOUR STREQUAL "cpu")
    file(GLOB _overrides CONFIGURE_DEPENDS "${_place}/*.cc")
  else()
    file(GLOB _overrides CONFIGURE_DEPENDS "${_place}/gpu/*.cc")
    list(APPEND _overrides "${_place}/scheduler.cc")
  endif()
  add_library(lmxlab_overrides OBJECT ${_overrides})
  target_link_libraries(lmxlab_overrides PRIVATE lmxlab_options lmxlab::mlx)
  target_link_libraries(lmxlab INTERFACE $<TARGET_OBJECTS:lmxlab_overrides>)
endif()
target_link_libraries(lmxlab PUBLIC ${_links} lmxlab::mlx)

# The public headers: every module's but the program's own.
file(GLOB LMXLAB_HEADERS CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/lmxlab/lmxlab.h"
  "${PROJECT_SOURCE_DIR}/lmxlab/*/*.h" "${PROJECT_SOURCE_DIR}/lmxlab/*/*/*.h")
list(FILTER LMXLAB_HEADERS EXCLUDE REGEX "/lmxlab/(cli|kernels/overrides|data/jinja)/|-inl\\.h$")  # -inl.h: once an instruction set
target_sources(lmxlab
  PUBLIC FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}" FILES ${LMXLAB_HEADERS}
  PUBLIC FILE_SET generated TYPE HEADERS BASE_DIRS "${PROJECT_BINARY_DIR}/generated"
    FILES "${PROJECT_BINARY_DIR}/generated/lmxlab/base/version.h")

# Parts of it, so that what knows nothing of MLX builds and tests in seconds, and kernels without the models.
function(lmxlab_part name)
  set(objects "")
  foreach(module IN LISTS ARGN)
    if(TARGET lmxlab_${module})
      list(APPEND objects $<TARGET_OBJECTS:lmxlab_${module}>)
    endif()
  endforeach()
  add_library(lmxlab_${name} STATIC EXCLUDE_FROM_ALL ${objects})
  target_link_libraries(lmxlab_${name} PUBLIC lmxlab_options)
endfunction()
lmxlab_part(pure base config plan)
target_link_libraries(lmxlab_pure PUBLIC ${LMXLAB_DEP_base})
lmxlab_part(lower base kernels io)
if(TARGET lmxlab_overrides)
  target_link_libraries(lmxlab_lower INTERFACE $<TARGET_OBJECTS:lmxlab_overrides>)
endif()
target_link_libraries(lmxlab_lower PUBLIC ${LMXLAB_DEP_base} ${LMXLAB_DEP_kernels} lmxlab::mlx)
if(NOT CMAKE_CROSSCOMPILING)  # elsewhere the host's libcrypto is found, and nothing tested there needs it
  target_link_libraries(lmxlab_lower PUBLIC ${LMXLAB_DEP_io})
endif()
