# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the scripts beside it, in the root of the repository, after set-up.
export PATH=$PWD/.venv/bin:$PATH

# shellcheck disable=SC2034
cores=$(nproc)
# Tests use two threads each; those that wait must leave the core to the others.
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive OMPI_MCA_mpi_yield_when_idle=1
# More ranks than cores, as root in a container that forbids reading another process's memory: mpirun's own words for each.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

# phase NAME COMMAND...: runs it, says how long it took, and ends the script with its code where it fails.
phase() {
  local name=$1 began=$SECONDS code=0
  shift
  printf '== %s\n' "$name"
  "$@" || code=$?
  if ((code != 0)); then
    printf '== %s: failed with code %d after %d s\n' "$name" "$code" "$((SECONDS - began))" >&2
    exit "$code"
  fi
  printf '== %s: %d s\n' "$name" "$((SECONDS - began))"
}
