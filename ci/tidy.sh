#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy over the given sources: ci/tidy.sh lowrank/projector.cpp ...  It reads a compile database of its own
# (build/tidy, configured only), because it cannot read g++'s precompiled header.
set -euo pipefail
cd "$(dirname "$0")/.."

(($# > 0)) || { echo "tidy: name the sources, for instance: ci/tidy.sh lowrank/*.cpp" >&2; exit 2; }
command -v clang-tidy > /dev/null || { echo "tidy: clang-tidy is not installed (Debian: apt install clang-tidy)" >&2; exit 2; }
[[ -d .venv ]] || { echo "tidy: run ci/setup.sh first" >&2; exit 2; }
PATH=$PWD/.venv/bin:$PATH cmake -S . -B build/tidy -G Ninja -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON > /dev/null
clang-tidy -p build/tidy --quiet --warnings-as-errors='*' "$@"
