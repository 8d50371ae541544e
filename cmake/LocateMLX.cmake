# Makes the target lmxlab::mlx from an unpacked MLX wheel.
#
# LMXLAB_MLX   auto, cpu, metal or cuda (auto: Metal on a Mac, CUDA where a driver answers, else CPU)
# MLX_ROOT     the folder with include/ and lib/ of MLX; otherwise build/mlx-VERSION-FLAVOUR is taken.
#
# MLX's own package config is not used: for the CUDA wheel it demands the CUDA toolkit and cuDNN, which only
# building MLX needs. The target needs the headers, the library and its run path, nothing else.
#
# A CUDA wheel is linked to libraries of other wheels (cuDNN, cuBLAS, NCCL, ...), unpacked beside it under nvidia/, and to
# libcuda, which only a driver brings. So the linker may leave a shared library's own symbols open, and the run path of
# what we link names those folders.

get_filename_component(_lmxlab_top "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/mlx-version.txt" LMXLAB_MLX_VERSION LIMIT_COUNT 1)

function(lmxlab_locate_mlx)
  set(flavour "${LMXLAB_MLX}")
  if(NOT flavour OR flavour STREQUAL "auto")
    if(APPLE)
      set(flavour metal)
    else()
      set(flavour cpu)
      file(GLOB cuda "${_lmxlab_top}/build/mlx-${LMXLAB_MLX_VERSION}-cuda*/mlx/include/mlx/array.h")
      if(cuda AND EXISTS /proc/driver/nvidia/version)
        set(flavour cuda)
      endif()
    endif()
  endif()
  if(NOT flavour MATCHES "^(cpu|metal|cuda)$")
    message(FATAL_ERROR "LMXLAB_MLX is \"${flavour}\": expected auto, cpu, metal or cuda.")
  endif()
  set(root "${MLX_ROOT}")
  if(NOT root)
    file(GLOB candidates "${_lmxlab_top}/build/mlx-${LMXLAB_MLX_VERSION}-${flavour}*/mlx")
    list(POP_FRONT candidates root)
  endif()
  if(NOT EXISTS "${root}/include/mlx/array.h")
    message(FATAL_ERROR "MLX ${LMXLAB_MLX_VERSION} (${flavour}) was not found. Run `make mlx`, which unpacks its wheel "
      "under build/, or pass -DMLX_ROOT=FOLDER with include/mlx and lib in it.")
  endif()
  file(STRINGS "${root}/include/mlx/version.h" lines REGEX "define MLX_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
  string(REGEX REPLACE "[^0-9]+([0-9]+)" "\\1." found "${lines}")
  string(REGEX MATCHALL "[0-9]+" found "${lines}")
  string(REPLACE ";" "." found "${found}")
  if(NOT found STREQUAL LMXLAB_MLX_VERSION)
    message(FATAL_ERROR "MLX in ${root} is version ${found}, expected ${LMXLAB_MLX_VERSION}: "
      "the allocator's interface changes between patch releases.")
  endif()
  set(library "${root}/lib/libmlx${CMAKE_SHARED_LIBRARY_SUFFIX}")
  if(NOT EXISTS "${library}")
    message(FATAL_ERROR "MLX's library is missing: ${library}")
  endif()
  add_library(lmxlab::mlx SHARED IMPORTED GLOBAL)
  set_target_properties(lmxlab::mlx PROPERTIES
    IMPORTED_LOCATION "${library}"
    INTERFACE_INCLUDE_DIRECTORIES "${root}/include"
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${root}/include")
  if(flavour STREQUAL "metal" AND EXISTS "${root}/include/metal_cpp")
    set_property(TARGET lmxlab::mlx APPEND PROPERTY INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${root}/include/metal_cpp")
    set_property(TARGET lmxlab::mlx APPEND PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${root}/include/metal_cpp")
  endif()
  if(flavour STREQUAL "cuda")
    set_property(TARGET lmxlab::mlx APPEND PROPERTY INTERFACE_LINK_OPTIONS "LINKER:--allow-shlib-undefined")
    file(GLOB folders LIST_DIRECTORIES true "${root}/../nvidia/*/lib")
    foreach(folder IN LISTS folders)
      get_filename_component(folder "${folder}" ABSOLUTE)
      set_property(TARGET lmxlab::mlx APPEND PROPERTY INTERFACE_LINK_OPTIONS "LINKER:-rpath,${folder}")
    endforeach()
  endif()
  message(STATUS "MLX ${found} (${flavour}): ${root}")
  set(LMXLAB_MLX_FLAVOUR "${flavour}" PARENT_SCOPE)
  set(LMXLAB_MLX_ROOT "${root}" PARENT_SCOPE)
endfunction()
