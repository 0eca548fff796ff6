# SPDX-License-Identifier: Apache-2.0
# Target kumiko::torch. By default LibTorch is the PyPI wheel in .venv; only its CPU libraries are linked, so that a build
# without CUDA needs no CUDA toolkit and starts without loading one. -DCMAKE_PREFIX_PATH=... takes another LibTorch.
set(KUMIKO_VENV ${CMAKE_SOURCE_DIR}/.venv CACHE PATH "virtual environment that ci/setup.sh made")

file(GLOB kumiko_torch_wheel ${KUMIKO_VENV}/lib/python3*/site-packages/torch)
if(CMAKE_PREFIX_PATH)
  find_package(Torch 2.11 REQUIRED)
  add_library(kumiko_torch INTERFACE)
  target_link_libraries(kumiko_torch INTERFACE ${TORCH_LIBRARIES})
  target_include_directories(kumiko_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
elseif(kumiko_torch_wheel)
  list(GET kumiko_torch_wheel 0 kumiko_torch_wheel)
  add_library(kumiko_torch INTERFACE)
  target_include_directories(kumiko_torch SYSTEM INTERFACE
    ${kumiko_torch_wheel}/include ${kumiko_torch_wheel}/include/torch/csrc/api/include)
  target_link_libraries(kumiko_torch INTERFACE
    ${kumiko_torch_wheel}/lib/libtorch_cpu.so ${kumiko_torch_wheel}/lib/libc10.so)
  file(GLOB kumiko_cuda_wheel_libs LIST_DIRECTORIES true ${kumiko_torch_wheel}/../nvidia/*/lib)
  foreach(dir ${kumiko_cuda_wheel_libs})
    target_link_options(kumiko_torch INTERFACE -Wl,-rpath-link,${dir})
  endforeach()
else()
  message(FATAL_ERROR "LibTorch not found: run ci/setup.sh, or name an own LibTorch with -DCMAKE_PREFIX_PATH=/path/to/libtorch")
endif()
# at::parallel_for uses threads only in files compiled with OpenMP, over LibTorch's own libgomp, lest there be two pools.
target_compile_options(kumiko_torch INTERFACE -fopenmp)
if(EXISTS ${kumiko_torch_wheel}/lib/libgomp.so.1)
  target_link_libraries(kumiko_torch INTERFACE ${kumiko_torch_wheel}/lib/libgomp.so.1)
else()
  target_link_libraries(kumiko_torch INTERFACE gomp)
endif()
add_library(kumiko::torch ALIAS kumiko_torch)
