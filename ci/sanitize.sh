#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds with the address and undefined-behaviour sanitizers into build/asan and runs the same tests. Arguments go to ctest.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
source ci/environment.sh

# alloc_dealloc_mismatch: LibTorch and libstdc++ may pair them across libraries that are not instrumented.
# detect_odr_violation: LibTorch's libraries hold some symbols twice.
# verify_asan_link_order: a test that preloads the fault shim puts it before the sanitizer's library.
export ASAN_OPTIONS=detect_leaks=1:alloc_dealloc_mismatch=0:detect_odr_violation=0:verify_asan_link_order=0:strict_string_checks=1:allocator_may_return_null=1
# Under mpirun stacks are unwound by their tables: by frame pointers they end in libc, and no suppression finds Open MPI in them.
export OMPI_MCA_mca_base_env_list="ASAN_OPTIONS=$ASAN_OPTIONS:fast_unwind_on_malloc=0"
export LSAN_OPTIONS=suppressions=$PWD/ci/leaks.supp:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

phase configure cmake --preset asan -DKUMIKO_BUILD_TESTS=ON
phase build cmake --build build/asan -j "$cores"
cc -shared -fPIC -O1 -o build/asan/keep_libraries.so ci/keep_libraries.c
printf '== tests (%d at a time)\n' "$cores"
# The oracles compare results that are the same here; Python, which loads our library there, is not instrumented.
exec env LD_PRELOAD="$PWD/build/asan/keep_libraries.so" ctest --preset asan --parallel "$cores" --label-exclude 'gpu|oracle' --no-tests=error "$@"
