# What `make install` lays down:
#   bin/lmxlab · include/lmxlab · lib/liblmxlab.a · lib/lmxlab/overrides/*.o · lib/lmxlab/mlx-VERSION-FLAVOUR
#   lib/cmake/lmxlab (find_package) · share/doc/lmxlab (licences)
# MLX comes along, so the folder stands by itself and can be moved; a MLX_ROOT outside build/ is used where it is.

include(CMakePackageConfigHelpers)
option(LMXLAB_INSTALL_MLX "install the unpacked MLX wheel beside the library" ON)

get_filename_component(_wheel "${LMXLAB_MLX_ROOT}/.." ABSOLUTE)
get_filename_component(_wheel_name "${_wheel}" NAME)
set(LMXLAB_INSTALLED_MLX "${LMXLAB_MLX_ROOT}")
if(LMXLAB_INSTALL_MLX AND _wheel_name MATCHES "^mlx-[0-9.]+-[a-z]+")
  set(LMXLAB_INSTALLED_MLX "\${_lmxlab_lib}/lmxlab/${_wheel_name}/mlx")
  set(_run_path "../lib/lmxlab/${_wheel_name}/mlx/lib")
  install(DIRECTORY "${_wheel}/" DESTINATION "lib/lmxlab/${_wheel_name}" USE_SOURCE_PERMISSIONS
    PATTERN "*.py" EXCLUDE PATTERN "*.pyi" EXCLUDE PATTERN "__pycache__" EXCLUDE PATTERN "bin" EXCLUDE)
endif()

install(TARGETS lmxlab ARCHIVE DESTINATION lib FILE_SET HEADERS DESTINATION include
  FILE_SET generated DESTINATION include)
if(TARGET lmxlab_overrides)
  install(FILES $<TARGET_OBJECTS:lmxlab_overrides> DESTINATION lib/lmxlab/overrides)
endif()

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/lmxlabConfig.cmake.in" "${PROJECT_BINARY_DIR}/generated/lmxlabConfig.cmake"
  INSTALL_DESTINATION lib/cmake/lmxlab NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/generated/lmxlabConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/generated/lmxlabConfig.cmake" "${PROJECT_BINARY_DIR}/generated/lmxlabConfigVersion.cmake"
  "${CMAKE_CURRENT_LIST_DIR}/LocateMLX.cmake" "${CMAKE_CURRENT_LIST_DIR}/mlx-version.txt" DESTINATION lib/cmake/lmxlab)
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" "${PROJECT_SOURCE_DIR}/THIRD_PARTY.md" "${PROJECT_SOURCE_DIR}/licenses/Apache-2.0.txt"
  DESTINATION share/doc/lmxlab)

# The program's run path, which Program.cmake's target takes.
function(lmxlab_install_program target)
  set(paths "")
  if(APPLE)
    set(here "@loader_path")
  else()
    set(here "$ORIGIN")
  endif()
  if(_run_path)
    list(APPEND paths "${here}/${_run_path}")
    file(GLOB cuda RELATIVE "${_wheel}" "${_wheel}/nvidia/*/lib")
    foreach(folder IN LISTS cuda)
      list(APPEND paths "${here}/../lib/lmxlab/${_wheel_name}/${folder}")
    endforeach()
  else()
    list(APPEND paths "${LMXLAB_MLX_ROOT}/lib")
  endif()
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "${paths}")
  install(TARGETS ${target} RUNTIME DESTINATION bin)
endfunction()
