# SPDX-License-Identifier: Apache-2.0
# Flags and helpers shared by every folder.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_COMPILE_OPTIONS_PIE "-fPIC")   # one precompiled header serves libraries and executables
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g")

add_compile_options(-Wall -Wextra -Werror -Wno-missing-field-initializers -fpch-preprocess)
if(KUMIKO_SANITIZE)
  add_compile_options(-fsanitize=${KUMIKO_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined -g1)
  add_link_options(-fsanitize=${KUMIKO_SANITIZE})
endif()

find_program(KUMIKO_CCACHE ccache)
if(KUMIKO_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${KUMIKO_CCACHE})
endif()

# kumiko_add_library(NAME SOURCES file... [DEPENDS target...] [PRIVATE_DEPENDS target...])
# A shared library that must resolve all its symbols in DEPENDS: the link enforces the layers of ARCHITECTURE.md.
function(kumiko_add_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  add_library(${name} SHARED ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES DEFINE_SYMBOL "")   # else the precompiled header fits one library only
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC kumiko::torch Threads::Threads ${ARG_DEPENDS} PRIVATE ${ARG_PRIVATE_DEPENDS})
  target_link_options(${name} PRIVATE -Wl,--no-undefined)
  kumiko_use_pch(${name})
endfunction()

function(kumiko_use_pch name)
  if(name STREQUAL "kumiko_core")
    target_precompile_headers(kumiko_core PRIVATE ${CMAKE_SOURCE_DIR}/tools/cmake/pch.hpp)
  else()
    target_precompile_headers(${name} REUSE_FROM kumiko_core)
  endif()
endfunction()

# kumiko_add_test(folder/thing_test [DEPENDS target...] [RANKS n] [LABELS label...])
# One executable from tests/folder/thing_test.cpp; each of its cases is one CTest entry. With RANKS the whole executable
# is one entry that mpirun starts with n ranks.
function(kumiko_add_test test)
  cmake_parse_arguments(ARG "" "RANKS;TIMEOUT" "DEPENDS;LABELS" ${ARGN})
  string(REPLACE "/" "_" name ${test})
  if(NOT ARG_LABELS)
    set(ARG_LABELS cpu)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${CMAKE_SOURCE_DIR}/tests/${test}.cpp)
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} GTest::gtest GTest::gmock)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  kumiko_use_pch(${name})
  if(KUMIKO_SANITIZE)
    target_compile_options(${name} PRIVATE -Wno-maybe-uninitialized)   # g++ 12 finds it in LibTorch's headers when it instruments
  endif()
  if(ARG_RANKS)
    target_link_libraries(${name} PRIVATE kumiko_mpi_test_main)
    add_test(NAME ${name}_ranks_${ARG_RANKS}
      COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe --allow-run-as-root --bind-to none -n ${ARG_RANKS} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}_ranks_${ARG_RANKS} PROPERTIES
      LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} PROCESSORS ${ARG_RANKS})
  else()
    target_link_libraries(${name} PRIVATE GTest::gtest_main)
    if(KUMIKO_SANITIZE)   # a start costs a second there: one for all cases of the file
      add_test(NAME ${name} COMMAND ${name})
      set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 1800)
    else()
      gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
        PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
    endif()
  endif()
endfunction()
