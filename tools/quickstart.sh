#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh clone to a small LLaMA pretrained in 4 bits with LoQT on real text: the Python sources of torch, sympy and
# networkx, which set-up has put into .venv. What is there already is used again; an interrupted training goes on.
#   tools/quickstart.sh [--fresh] [a.b=value ...]
#     --fresh     train a tokenizer, prepare the text and train anew
#     a.b=value   changes of recipes/quickstart.yaml, for instance train.steps=1000
set -euo pipefail
cd "$(dirname "$0")/.."

readonly KUMIKO=build/release/kumiko
readonly RECIPE=recipes/quickstart.yaml
readonly DATA=.cache/quickstart
readonly RUN=runs/quickstart
readonly VOCABULARY=4096
readonly TOKENIZER_SAMPLE=10MB
readonly TEXT_BYTES=100MB

fail() { printf 'quickstart: %s\n' "$@" >&2; exit 1; }

times=()
# phase NAME ADVICE COMMAND...
phase() {
  local name=$1 advice=$2 began=$SECONDS code=0
  shift 2
  printf '\n== %s\n' "$name"
  "$@" || code=$?
  ((code == 0)) || fail "'$name' failed with exit code $code after $((SECONDS - began)) s; $advice"
  times+=("$name $((SECONDS - began)) s")
}

fresh=false
overrides=()
for argument in "$@"; do
  case $argument in
    --fresh) fresh=true ;;
    -h | --help) sed -n '3,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    [a-z]*=*) overrides+=("$argument") ;;
    *) fail "unknown option '$argument'; see tools/quickstart.sh --help" ;;
  esac
done

build() {
  local cores gib jobs
  cores=$(nproc)
  gib=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)
  jobs=$((gib < cores ? (gib < 1 ? 1 : gib) : cores))
  mkdir -p build
  cmake --preset release > build/configure.log 2>&1 || { tail -n 20 build/configure.log >&2; return 1; }
  cmake --build build/release --target kumiko -j "$jobs"
}

# The folders with the sources that are learnt.
text_folders() {
  .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | sed 's,.*,&/networkx\n&/sympy\n&/torch,'
}

prepare() {
  if compgen -G "$DATA/shards/train-*.h5" > /dev/null; then
    echo "used again: $DATA/shards (--fresh makes it anew)"
    return
  fi
  "$KUMIKO" prepare "${folders[@]}" --suffix .py --skip-invalid --tokenizer "$DATA/tokenizer.model" --output "$DATA/shards" \
    --validation 0.02 --max-bytes "$TEXT_BYTES"
}

train_tokenizer() {
  if [[ -s $DATA/tokenizer.model ]]; then
    echo "used again: $DATA/tokenizer.model (--fresh makes it anew)"
    return
  fi
  "$KUMIKO" tokenizer train "${folders[@]}" --suffix .py --skip-invalid --vocab-size "$VOCABULARY" --sample "$TOKENIZER_SAMPLE" \
    --output "$DATA/tokenizer.model"
}

train() {
  "$KUMIKO" train "$RECIPE" "data.train=$DATA/shards/train-*.h5" "data.validation=$DATA/shards/val-*.h5" "output_dir=$RUN" \
    "${overrides[@]}"
}

generate() { "$KUMIKO" generate "$RUN" --prompt 'def' --max-tokens 96 --temperature 0.7 --seed 1 > "$DATA/sample.txt"; }

summarize() {
  .venv/bin/python - "$RUN/summary.json" "$DATA/figures.json" << 'PYTHON'
import json
import pathlib
import sys

figures = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
# A start that found the run complete trained nothing: speed and memory are those of the start that did.
kept = pathlib.Path(sys.argv[2])
if figures["tokens_per_s"] > 0:
    kept.write_text(json.dumps({name: figures[name] for name in ("tokens_per_s", "peak_memory_bytes")}), encoding="utf-8")
elif kept.is_file():
    figures.update(json.loads(kept.read_text(encoding="utf-8")))
mib = 1 << 20
print(f"steps: {figures['steps']}" + ("" if figures["complete"] else " (stopped early; run this again to go on)"))
print(f"validation perplexity: {figures['validation_perplexity']:.2f}")
print(f"unigram perplexity: {figures['unigram_perplexity']:.2f}")
print(f"merges: {figures['merges']}")
print(f"tokens/s: {figures['tokens_per_s']:.0f}")
print(f"peak memory: {figures['peak_memory_bytes'] / mib:.0f} MiB")
print(f"weights and states: {figures['state_bytes']} bytes; full-rank AdamW would hold {figures['full_rank_state_bytes']} bytes")
PYTHON
}

printf '== set-up\n'
ci/setup.sh || fail "'set-up' failed; what to do is said above"
times+=("set-up $SECONDS s")
export PATH=$PWD/.venv/bin:$PATH
phase build "the compiler's message is above; a build folder of another machine or time: rm -r build/release" build

if $fresh; then rm -rf "$DATA" "$RUN"; fi
mkdir -p "$DATA" || fail "cannot write to $PWD"
mapfile -t folders < <(text_folders)
for folder in "${folders[@]}"; do
  [[ -d $folder ]] || fail "no folder $folder, although set-up installed it: remove .venv and run this again"
done

phase tokenizer "kumiko says why above; tools/quickstart.sh --fresh starts over" train_tokenizer
phase prepare "kumiko says why above; tools/quickstart.sh --fresh starts over" prepare
phase train "kumiko says why above; run this again to go on from the last checkpoint, or with --fresh to start over" train
[[ -f $RUN/summary.json ]] || fail "training stopped before its end; run this again to go on from the last checkpoint"
phase generate "kumiko says why above" generate

printf '\n== summary (%s' "${times[0]}"
printf ', %s' "${times[@]:1}"
printf '; %d s in all)\n' "$SECONDS"
summarize
printf 'run folder: %s; a Hugging Face folder is in %s/final\n' "$RUN" "$RUN"
printf 'sample:\n'
sed 's/^/  /' "$DATA/sample.txt"
