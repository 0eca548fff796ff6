#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what a build needs: Debian packages, and .venv with LibTorch (the PyPI wheel of torch), CMake and Ninja. Calls
# nothing where nothing is missing.
#   ci/setup.sh [--cpu] [--oracles]
#     --cpu       no CUDA compiler, also on a machine with an NVIDIA driver
#     --oracles   besides, what only tests need: .venv-oracles with the Python packages that tests/oracle compares with, and
#                 Chromium, which opens the page of 'kumiko ablate'
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TORCH=2.11.0
readonly DEBIAN_PACKAGES=(
  g++ make pkg-config git ca-certificates python3 python3-venv ccache iproute2
  libopenmpi-dev openmpi-bin libyaml-cpp-dev libhdf5-dev libgtest-dev libgmock-dev libbenchmark-dev libcli11-dev
  libspdlog-dev libfmt-dev nlohmann-json3-dev libsentencepiece-dev libhwy-dev zlib1g-dev libzstd-dev libicu-dev libssl-dev)
readonly TEST_PACKAGES=(chromium)
readonly PYTHON_PACKAGES=("torch==$TORCH" "numpy>=1.26" "cmake>=3.28" "ninja>=1.11")
readonly CUDA_PACKAGES=("nvidia-cuda-nvcc==13.0.*" "nvidia-cuda-crt==13.0.*" "nvidia-nvvm==13.0.*" "nvidia-cuda-cccl==13.0.*")
readonly ORACLE_PACKAGES=("transformers==5.23.0" "bitsandbytes==0.50.2" "safetensors>=0.5" "tensorboard>=2.18" "h5py>=3.11"
  "sentencepiece>=0.2" "tiktoken>=0.7" "protobuf>=4.25" "galore-torch==1.0" "apollo-torch==1.0.3" "peft==0.21.2")

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 1; }
step_began=$SECONDS
done_in() { say "$1 ($((SECONDS - step_began)) s)"; step_began=$SECONDS; }

cpu_only=false
oracles=false
for argument in "$@"; do
  case $argument in
    --cpu) cpu_only=true ;;
    --oracles) oracles=true ;;
    -h | --help) sed -n '3,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail "unknown option '$argument'; see ci/setup.sh --help" ;;
  esac
done

check_machine() {
  [[ $(uname -s) == Linux ]] || fail "this is $(uname -s); Kumiko is built and tested on Linux only"
  [[ $(uname -m) == x86_64 ]] || fail "this machine is $(uname -m); Kumiko is built and tested on x86_64 only, where PyPI" \
    "has the wheel of torch $TORCH with the C++11 ABI"
}

list_needed_elsewhere() {
  fail "this is not Debian or Ubuntu (no apt-get): install these by your package manager, then run this again with" \
    "KUMIKO_SKIP_PACKAGES=1:" \
    "  a C++20 compiler (g++ 12 or later), make, pkg-config, git, Python 3.10 or later with venv and pip, ccache, iproute2," \
    "  and with headers: Open MPI 4, yaml-cpp 0.7, HDF5 1.10 (C), GoogleTest with GoogleMock 1.12, Google Benchmark, CLI11 2," \
    "  spdlog, fmt 9, nlohmann-json 3, SentencePiece 0.1.97, Highway 1.0, zlib, zstd, ICU, OpenSSL 3"
}

install_debian_packages() {
  [[ ${KUMIKO_SKIP_PACKAGES:-0} != 1 ]] || { done_in "system packages: not looked at (KUMIKO_SKIP_PACKAGES=1)"; return; }
  if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then list_needed_elsewhere; fi
  local needed=("${DEBIAN_PACKAGES[@]}") missing=() package
  # Ubuntu has Chromium as a snap only; the test that wants it is skipped there.
  if $oracles && grep -q '^ID=debian' /etc/os-release; then needed+=("${TEST_PACKAGES[@]}"); fi
  local installed
  installed=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' "${needed[@]}" 2> /dev/null | awk '$1 == "ii" {print $2}') || true
  for package in "${needed[@]}"; do
    grep -qxF -- "$package" <<< "$installed" || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    done_in "system packages: all ${#needed[@]} are there"
    return
  fi
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo > /dev/null || fail "not root and no sudo; ask an administrator for: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing ${#missing[@]} system packages: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update -q && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
    --no-install-recommends "${missing[@]}"; } > "$log" 2>&1 < /dev/null; then
    tail -n 8 "$log" >&2
    rm -f "$log"
    fail "apt-get could not install the packages above. Without a network, connect and run this again; where a package is" \
      "unknown, this release is too old (Debian 12 is known to work). By hand: apt-get install ${missing[*]}"
  fi
  rm -f "$log"
  done_in "system packages: ${#missing[@]} installed"
}

# The interpreter for the virtual environments: Debian's where Debian's python3-venv was installed for it.
find_python() {
  python=${KUMIKO_PYTHON:-}
  if [[ -z $python ]]; then
    python=python3
    if [[ ${KUMIKO_SKIP_PACKAGES:-0} != 1 && -x /usr/bin/python3 ]]; then python=/usr/bin/python3; fi
  fi
  command -v "$python" > /dev/null || fail "no $python; install Python 3.10 or later, or name one with KUMIKO_PYTHON=/path/to/python3"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version) is too old for torch $TORCH: 3.10 or later is needed; name one with KUMIKO_PYTHON=/path/to/python3"
  "$python" -c 'import venv, ensurepip' 2> /dev/null ||
    fail "$python has no modules venv and ensurepip: install python3-venv, or name another with KUMIKO_PYTHON=/path/to/python3"
}

# make_venv FOLDER: makes it, or makes it anew where its interpreter is gone.
make_venv() {
  if [[ -x $1/bin/python ]] && "$1/bin/python" -c '' 2> /dev/null; then return; fi
  find_python
  [[ ! -e $1 ]] || say "$1 does not run here: made anew"
  "$python" -m venv --clear "$1" > /dev/null || fail "$python -m venv $1 failed; is python3-venv installed and the disk writable?"
}

# lacking FOLDER REQUIREMENT...: prints the requirements that FOLDER does not meet. What an interrupted pip left half
# installed (no INSTALLER, which pip writes last) is taken off pip's books first, so that it is installed again.
lacking() {
  "$1/bin/python" - "${@:2}" << 'PYTHON'
import importlib.metadata
import shutil
import sys
from pip._vendor.packaging.requirements import Requirement

for dist in list(importlib.metadata.distributions()):
    if dist.read_text("INSTALLER") is None and str(dist._path).endswith(".dist-info") and str(dist._path).startswith(sys.prefix):
        shutil.rmtree(dist._path)
for text in sys.argv[1:]:
    need = Requirement(text)
    try:
        met = need.specifier.contains(importlib.metadata.version(need.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        met = False
    if not met:
        print(text)
PYTHON
}

# install_python FOLDER NEEDED_GIB REQUIREMENT...
install_python() {
  local folder=$1 needed_gib=$2 missing
  shift 2
  missing=$(lacking "$folder" "$@") || fail "$folder is damaged: remove it and run this again"
  if [[ -z $missing ]]; then
    done_in "$folder: all $# packages are there"
    return
  fi
  local free_gib
  free_gib=$(df -Pk "$folder" | awk 'NR == 2 {print int($4 / 1048576)}')
  ((free_gib >= needed_gib)) || fail "$folder needs about $needed_gib GiB, and $free_gib GiB are free on its disk: make room and run this again"
  local requirements
  mapfile -t requirements <<< "$missing"
  say "installing into $folder: ${requirements[*]}"
  local log=$folder/setup.log
  if ! "$folder/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "${requirements[@]}" > "$log" 2>&1 < /dev/null; then
    grep -v '^WARNING: Retrying' "$log" | tail -n 6 >&2
    fail "pip could not install ${requirements[*]}" \
      "all it said is in $log. Without a network, connect and run this again; behind a proxy or with an own index, set" \
      "https_proxy or PIP_INDEX_URL. What was downloaded is kept"
  fi
  rm -f "$log"
  done_in "$folder: ${#requirements[@]} of $# packages installed"
}

# A virtual environment that was moved still runs, but its scripts name the interpreter at the old place.
repair_moved_scripts() {
  if .venv/bin/cmake --version > /dev/null 2>&1 && .venv/bin/ninja --version > /dev/null 2>&1; then return; fi
  say ".venv was moved: its cmake and ninja are installed again"
  .venv/bin/python -m pip install --disable-pip-version-check --no-input -q --force-reinstall --no-deps cmake ninja < /dev/null ||
    fail "pip could not install cmake and ninja again; remove .venv and run this again"
}

has_nvidia_driver() { [[ -e /proc/driver/nvidia/version ]] || { command -v nvidia-smi > /dev/null && nvidia-smi -L > /dev/null 2>&1; }; }

# The compiler's wheels lack what a toolkit install has: lib64, and a libX.so beside each libX.so.N.
repair_cuda_wheels() {
  local packages cuda library base linked=0
  packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  cuda=$packages/nvidia/cu13
  [[ -e $cuda/lib64 ]] || ln -s lib "$cuda/lib64"
  for library in "$cuda"/lib/*.so.* "$packages"/nvidia/nccl/lib/*.so.*; do
    base=${library%%.so.*}.so
    if [[ -e $library && ! -e $base ]]; then
      ln -s "$(basename "$library")" "$base"
      linked=$((linked + 1))
    fi
  done
  done_in "CUDA compiler: in .venv, $linked links added"
}

layer_oracles() {
  local below above
  below=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  above=$(.venv-oracles/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  if [[ ! -f $above/kumiko_venv.pth || $(< "$above/kumiko_venv.pth") != "$below" ]]; then printf '%s\n' "$below" > "$above/kumiko_venv.pth"; fi
}

check_machine
install_debian_packages
make_venv .venv
install_python .venv 8 "${PYTHON_PACKAGES[@]}"
repair_moved_scripts
if ! $cpu_only && has_nvidia_driver; then
  install_python .venv 1 "${CUDA_PACKAGES[@]}"
  repair_cuda_wheels
fi
if $oracles; then
  KUMIKO_PYTHON=${KUMIKO_PYTHON:-$(.venv/bin/python -c 'import sys; print(sys._base_executable)')} make_venv .venv-oracles
  layer_oracles
  install_python .venv-oracles 2 "${ORACLE_PACKAGES[@]}"
fi
say "done in $SECONDS s"
