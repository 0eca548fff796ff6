#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What is cheap to check in the files under version control; shellcheck and clang-format only where they are installed.
#   ci/check_style.sh            white space, syntax of shell and Python, shellcheck
#   ci/check_style.sh --format   besides, a list of the C++ files that .clang-format would change (no failure)
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
report() {
  printf 'check_style: %s\n' "$1" >&2
  failed=1
}

list() { git ls-files -- "$@" | while IFS= read -r file; do [[ ! -f $file ]] || printf '%s\n' "$file"; done; }

mapfile -t texts < <(list '*.cpp' '*.hpp' '*.h' '*.c' '*.cu' '*.cuh' '*.py' '*.sh' '*.cmake' '*.txt' '*.md' '*.yaml' '.ci/*')
mapfile -t cxx < <(list '*.cpp' '*.hpp' '*.cu' '*.cuh')
mapfile -t python < <(list '*.py')
mapfile -t shell < <(list '*.sh' '.ci/run')
((${#texts[@]} > 0)) || { report "no files: this is not a clone of the repository"; exit 1; }

white_space=$(grep -nE '[[:blank:]]+$|^<{7} |^>{7} ' -- "${texts[@]}" || true)
[[ -z $white_space ]] || report "white space at a line's end, or a conflict mark:"$'\n'"$white_space"
tabs=$(grep -nP '^\t' -- "${texts[@]}" || true)
[[ -z $tabs ]] || report "tab at a line's start:"$'\n'"$tabs"
for file in "${texts[@]}"; do
  [[ ! -s $file || -z $(tail -c 1 -- "$file") ]] || report "$file: no line end at the end"
done

for file in "${shell[@]}"; do
  bash -n -- "$file" || report "$file: not a valid shell script"
done
((${#python[@]} == 0)) || python3 - "${python[@]}" << 'PYTHON' || report "not valid Python"
import ast
import sys

for name in sys.argv[1:]:
    ast.parse(open(name, encoding="utf-8").read(), name)
PYTHON
if command -v shellcheck > /dev/null; then
  shellcheck --severity=warning -- "${shell[@]}" || report "shellcheck has findings"
fi

if [[ ${1:-} == --format ]]; then
  command -v clang-format > /dev/null || { report "clang-format is not installed"; exit 1; }
  for file in "${cxx[@]}"; do
    clang-format --dry-run --Werror -- "$file" 2> /dev/null || printf 'would be formatted: %s\n' "$file"
  done
fi
((failed == 0)) && echo "check_style: no findings in ${#texts[@]} files"
exit "$failed"
