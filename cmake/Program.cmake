# The program.
find_path(CLI11_INCLUDE CLI/CLI.hpp REQUIRED)
file(GLOB _cli CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/lmxlab/cli/*.cpp")
add_executable(lmxlab_program ${_cli})
set_target_properties(lmxlab_program PROPERTIES OUTPUT_NAME lmxlab RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}")
target_include_directories(lmxlab_program SYSTEM PRIVATE "${CLI11_INCLUDE}")
target_link_libraries(lmxlab_program PRIVATE lmxlab)
if(LMXLAB_PCH)
  target_precompile_headers(lmxlab_program PRIVATE <mlx/mlx.h> <algorithm> <functional> <map> <memory> <optional>
    <string> <vector>)
endif()
if(COMMAND lmxlab_install_program)
  lmxlab_install_program(lmxlab_program)
endif()
