# The GPU kernels. Their source is always part of the library, for NVRTC to compile at first use.
# Embedded machine code for all GPUs makes that and NVRTC unnecessary; nvcc takes a minute or two.
#   BIDIFF_CUDA=AUTO  the default: embed it if an nvcc is found that compiles for every GPU here
#   BIDIFF_CUDA=ON    embed it, or fail with the reason
#   BIDIFF_CUDA=OFF   do not look for nvcc
# nvcc is looked for on PATH, and in CUDACXX, CUDA_HOME, CUDA_PATH and /usr/local/cuda. No other
# part of CUDA is needed. With pip, set the environment variable of the same name. The kernels
# become part of the target BIDIFF_CUDA_TARGET, the op library unless the TensorRT plugin sets it.
if(NOT BIDIFF_CUDA_TARGET)
  set(BIDIFF_CUDA_TARGET bidiff_ops)
endif()
get_filename_component(bidiff_engines ${CMAKE_CURRENT_LIST_DIR} DIRECTORY)
set(BIDIFF_CUDA AUTO CACHE STRING "Embed GPU kernels compiled by nvcc: AUTO, ON or OFF")
set(bidiff_cuda ${BIDIFF_CUDA})
if(NOT "$ENV{BIDIFF_CUDA}" STREQUAL "")
  set(bidiff_cuda $ENV{BIDIFF_CUDA})
endif()
string(TOUPPER "${bidiff_cuda}" bidiff_cuda)
if(bidiff_cuda MATCHES "^(0|OFF|NO|FALSE|N|)$")
  set(bidiff_cuda OFF)
elseif(bidiff_cuda MATCHES "^(1|ON|YES|TRUE|Y)$")
  set(bidiff_cuda ON)
elseif(NOT bidiff_cuda STREQUAL "AUTO")
  message(FATAL_ERROR "bidiff: BIDIFF_CUDA=${bidiff_cuda} is unknown; set AUTO, ON or OFF")
endif()
# Cubins run on later minor versions of their major version, PTX of the last one on later GPUs.
set(BIDIFF_CUDA_ARCHITECTURES "75;80;86;87;89;90;100;120" CACHE STRING
  "GPU architectures to embed, oldest first")
# Every product and sum is rounded on its own, as on the CPU.
set(bidiff_cuda_options --std=c++17 --fmad=false)

file(GLOB bidiff_cuda_sources CONFIGURE_DEPENDS ${bidiff_engines}/cuda/device/*)
file(GLOB bidiff_cuda_units CONFIGURE_DEPENDS ${bidiff_engines}/cuda/device/*.cu)
set(bidiff_embed ${bidiff_engines}/cmake/embed_cuda_sources.cmake)

add_custom_command(OUTPUT cuda_sources.cpp
  COMMAND ${CMAKE_COMMAND} "-DFILES=${bidiff_cuda_sources}" "-DOPTIONS=${bidiff_cuda_options}"
    -DOUTPUT=cuda_sources.cpp -P ${bidiff_embed}
  DEPENDS ${bidiff_cuda_sources} ${bidiff_embed}
  COMMENT "Embedding the source of the GPU kernels" VERBATIM)
target_sources(${BIDIFF_CUDA_TARGET} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/cuda_sources.cpp)

set(bidiff_cuda_codes)
foreach(architecture ${BIDIFF_CUDA_ARCHITECTURES})
  list(APPEND bidiff_cuda_codes -gencode arch=compute_${architecture},code=sm_${architecture})
endforeach()
list(GET BIDIFF_CUDA_ARCHITECTURES -1 last)
list(APPEND bidiff_cuda_codes -gencode arch=compute_${last},code=compute_${last})

# Sets in the caller: bidiff_nvcc_version, and why nvcc cannot be used, empty if it can.
function(bidiff_find_nvcc reason)
  set(${reason} "" PARENT_SCOPE)
  find_program(BIDIFF_NVCC NAMES $ENV{CUDACXX} nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH
    PATHS /usr/local/cuda PATH_SUFFIXES bin)
  set(version 0)
  if(BIDIFF_NVCC)
    execute_process(COMMAND ${BIDIFF_NVCC} --version OUTPUT_VARIABLE output RESULT_VARIABLE code
      ERROR_QUIET)
    if(code EQUAL 0 AND output MATCHES "release ([0-9]+)\\.([0-9]+)")
      math(EXPR version "1000 * ${CMAKE_MATCH_1} + 10 * ${CMAKE_MATCH_2}")
    endif()
  endif()
  set(needed 11080)
  set(needed_text 11.8)
  foreach(architecture ${BIDIFF_CUDA_ARCHITECTURES})
    if(architecture GREATER_EQUAL 100)
      set(needed 12080)
      set(needed_text 12.8)
    endif()
  endforeach()
  if(version LESS needed)
    set(${reason} "nvcc of CUDA ${needed_text} or newer was not found" PARENT_SCOPE)
    return()
  endif()
  set(bidiff_nvcc_version ${version} PARENT_SCOPE)
  # An nvcc may reject the host's compiler or a GPU, or be incomplete: a tiny kernel shows it, once
  # for each nvcc.
  set(asked "${BIDIFF_NVCC} ${version} ${bidiff_cuda_codes}")
  if("${BIDIFF_NVCC_WORKS}" STREQUAL "${asked}")
    return()
  endif()
  set(probe ${CMAKE_CURRENT_BINARY_DIR}/bidiff_probe)
  file(WRITE ${probe}.cu "extern \"C\" __global__ void bidiff_probe(int* x) { *x = 1; }\n")
  file(REMOVE ${probe}.fatbin)
  execute_process(COMMAND ${BIDIFF_NVCC} -fatbin ${bidiff_cuda_options} ${bidiff_cuda_codes}
      -Xfatbin -compress-all -o ${probe}.fatbin ${probe}.cu
    RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output TIMEOUT 120)
  if(NOT code EQUAL 0 OR NOT EXISTS ${probe}.fatbin)
    if(NOT output MATCHES "([^\n]*(error|fatal|unsupported)[^\n]*)")
      string(REGEX MATCH "[^\n]+" output "${output}")
    else()
      set(output "${CMAKE_MATCH_1}")
    endif()
    string(STRIP "${output}" output)
    if(output STREQUAL "")
      set(output "exit code ${code}")
    endif()
    set(${reason} "${BIDIFF_NVCC} does not compile here (${output})" PARENT_SCOPE)
    return()
  endif()
  set(BIDIFF_NVCC_WORKS "${asked}" CACHE INTERNAL "nvcc and GPUs that a tiny kernel compiled for")
endfunction()

set(bidiff_fatbins)
set(bidiff_nvcc_version 0)
if(NOT bidiff_cuda STREQUAL "OFF")
  bidiff_find_nvcc(bidiff_reason)
  if(bidiff_reason STREQUAL "")
    message(STATUS "bidiff: GPU kernels are compiled ahead by ${BIDIFF_NVCC}")
  elseif(bidiff_cuda STREQUAL "AUTO")
    message(STATUS "bidiff: ${bidiff_reason}; NVRTC will compile the GPU kernels at first use")
    set(bidiff_cuda OFF)
    set(bidiff_nvcc_version 0)
  else()
    message(FATAL_ERROR "bidiff: BIDIFF_CUDA=ON, but ${bidiff_reason}; install NVIDIA's CUDA "
      "toolkit or set CUDACXX, or leave BIDIFF_CUDA out: NVRTC then compiles the kernels at first "
      "use.")
  endif()
endif()
if(NOT bidiff_cuda STREQUAL "OFF")
  foreach(unit ${bidiff_cuda_units})
    get_filename_component(name ${unit} NAME_WE)
    set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/${name}.fatbin)
    # Two threads: units are compiled in parallel, and each takes much memory. All units depend on
    # all device sources, which are few.
    add_custom_command(OUTPUT ${fatbin}
      COMMAND ${BIDIFF_NVCC} -fatbin --threads 2 ${bidiff_cuda_options} ${bidiff_cuda_codes}
        -Xfatbin -compress-all -o ${fatbin} ${unit}
      DEPENDS ${bidiff_cuda_sources}
      COMMENT "Compiling ${name}.cu for ${BIDIFF_CUDA_ARCHITECTURES}" VERBATIM)
    list(APPEND bidiff_fatbins ${fatbin})
  endforeach()
  string(REPLACE ";" " " bidiff_fatbin_architectures "${BIDIFF_CUDA_ARCHITECTURES}")
endif()

# Embedded by the assembler: as text they would take the compiler minutes.
set(declared "")
set(listed "")
set(bytes "0")
set(index 0)
foreach(fatbin ${bidiff_fatbins})
  string(APPEND declared "asm(\".pushsection .rodata\\n.balign 16\\n\"\n"
    "    \"bidiff_fatbin_${index}:\\n.incbin \\\"${fatbin}\\\"\\n\"\n"
    "    \"bidiff_fatbin_end_${index}:\\n.byte 0\\n.popsection\");\n"
    "extern \"C\" const char bidiff_fatbin_${index}[], bidiff_fatbin_end_${index}[];\n")
  string(APPEND listed "{bidiff_fatbin_${index}, bidiff_fatbin_end_${index}}, ")
  math(EXPR index "${index} + 1")
endforeach()
file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/cuda_fatbins.cpp CONTENT
"// Generated by cmake/cuda_kernels.cmake.
#include \"cuda/module.h\"

${declared}
namespace bidiff::cuda {

const Fatbin kFatbins[] = {${listed}{nullptr, nullptr}};
const size_t kFatbinCount = ${index};
const int kFatbinToolkit = ${bidiff_nvcc_version};
const char kFatbinArchitectures[] = \"${bidiff_fatbin_architectures}\";

}  // namespace bidiff::cuda
")
set_source_files_properties(${CMAKE_CURRENT_BINARY_DIR}/cuda_fatbins.cpp PROPERTIES
  OBJECT_DEPENDS "${bidiff_fatbins}")
target_sources(${BIDIFF_CUDA_TARGET} PRIVATE
  ${CMAKE_CURRENT_BINARY_DIR}/cuda_fatbins.cpp ${bidiff_fatbins})
target_include_directories(${BIDIFF_CUDA_TARGET} PRIVATE ${bidiff_engines})
target_link_libraries(${BIDIFF_CUDA_TARGET} PRIVATE ${CMAKE_DL_LIBS})
