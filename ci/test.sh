#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up, builds everything and runs every test that needs no GPU. Arguments go to ctest: ci/test.sh -R checkpoint
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh --oracles
source ci/environment.sh

phase style ci/check_style.sh
phase layers python3 ci/check_layers.py
phase configure cmake --preset release -DKUMIKO_BUILD_TESTS=ON
phase build cmake --build build/release -j "$cores"
printf '== tests (%d at a time)\n' "$cores"
exec ctest --preset release --parallel "$cores" --label-exclude gpu --no-tests=error "$@"
