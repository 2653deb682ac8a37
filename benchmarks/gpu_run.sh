#!/usr/bin/env bash
# GPU tests, benchmarks and study runs on a bare machine: one with a GPU, Python and PyTorch, and without a network.
#
# Here, in this checkout:
#   benchmarks/gpu_run.sh pack [SIDE [QUALITY]]      fills build/gpu/: wheels, source.tar.gz, ham10000.tar.gz, weights, run.sh
#       SKINKD_DATA_DIR   holds ham10000/
#       SKINKD_WEIGHTS    folder of the *.safetensors that the study starts from (optional)
#       PACK_PYTHON       the Python whose wheels are packed: the machine's version (default python3.12)
# There, with build/gpu/ copied to any place:
#   bash run.sh [--cpu] STAGE SECONDS [STAGE SECONDS …]
#       install           unpacks everything into $WORK (default /tmp/skinkd-gpu)
#       tests             pytest -m gpu, $WORKERS (8) at once; the log tells each failure as soon as it happens
#       bench             python -m benchmarks.bench: its tables and bench.json
#       tune              trials of the study's rows, then the choice among them: tune.tar.gz, to be unpacked in a checkout
#       folds             the study's runs, with the settings that tune chose there, else those of the checkout: folds.tar.xz
#       variants          its remedies, or what VARIANTS says ("ablations"): remedies.csv, or ablations.csv and ablations.tar.xz
# Each stage has its own limit, keeps its log in $OUT (default ./gpu-out), and fails alone; the exit code counts failures.
# FOLDS="--seeds 1 --rows swskd" are arguments of folds, BENCH="--sections loop" of bench, TESTS="not fp16" chooses tests (-k).
# install, tests, bench, tune and folds leave 8 files in $OUT together, variants up to three more. tune, folds and variants go on
# where the same stage ended before.
# --cpu is a dry run on a machine without a GPU, tiny.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

pack() {
  local side=${1:-96} quality=${2:-88} root out python=${PACK_PYTHON:-python3.12}
  set -e
  root=$(cd "$here/.." && pwd)
  out=$root/build/gpu
  rm -rf "$out"
  mkdir -p "$out/wheels"
  # what the machine's image lacks; optuna and what it needs for tuning
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$out/wheels" \
    hydra-core==1.3.8 omegaconf==2.3.1 timm==1.0.31 albumentations==2.0.8 albucore==0.0.24 stringzilla==5.3.2 simsimd==6.5.16 \
    pydantic==2.14.4 pydantic-core==2.50.5 typing-inspection==0.4.5 annotated-types==0.8.0 typing-extensions \
    optuna alembic mako colorlog 2>&1 | grep -v WARNING || true
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --platform any \
    --dest "$out/wheels" sqlalchemy 2>&1 | grep -v WARNING || true # without compiled parts: a third of the size
  "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$out/wheels" \
    antlr4-python3-runtime==4.9.3 2>&1 | grep -v WARNING || true
  [ "$(ls "$out/wheels" | wc -l)" -ge 18 ] || { echo "wheels are missing in $out/wheels" >&2; exit 1; }
  git -C "$root" archive --format=tar.gz -o "$out/source.tar.gz" HEAD -- ':!benchmarks/study/*.tar.xz' ':!docs/images'
  git -C "$root" rev-parse HEAD >"$out/COMMIT"
  local weights=()
  [ -z "${SKINKD_WEIGHTS:-}" ] || weights=(--weights "$SKINKD_WEIGHTS"/*.safetensors)
  "$root/.venv/bin/python" "$root/benchmarks/gpu_pack.py" "$out" --side "$side" --quality "$quality" "${weights[@]}"
  cp "${BASH_SOURCE[0]}" "$out/run.sh"
  du -k --apparent-size "$out"/* | sort -n
  local total
  total=$(du -sk --apparent-size "$out" | cut -f1)
  echo "together $((total / 1024)) MiB"
  [ "$total" -lt $((60 * 1024)) ] || { echo "more than 60 MiB: pack smaller images (pack $((side * 3 / 4)))" >&2; exit 1; }
}

install() {
  mkdir -p "$WORK/source" "$WORK/data" "$WORK/weights" || return
  tar -xzf "$here/source.tar.gz" -C "$WORK/source" || return
  cp "$here/COMMIT" "$WORK/source/COMMIT" || return
  ln -sfn ../conf "$WORK/source/skinkd/conf" || return # where the wheel has it
  [ ! -f "$here/ham10000.tar.gz" ] || tar -xzf "$here/ham10000.tar.gz" -C "$WORK/data" || return
  cp "$here"/*.safetensors "$WORK/weights/" 2>/dev/null
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$WORK/site" "$here"/wheels/*.whl || return
  cd "$WORK/source" && "$PYTHON" - <<'PY'
import sys, time
began = time.time()
import torch, skinkd.config.cli, skinkd.train, skinkd.conf
where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA"
print(f"python {sys.version.split()[0]}, torch {torch.__version__}, {where}; imports took {time.time() - began:.0f} s")
PY
}

tests() {
  cd "$WORK/source" || return
  local keep=(${TESTS:+-k "$TESTS"})
  [ -z "$CPU" ] || { keep=(-k "${TESTS:-float32 and supervised}"); export SKINKD_GPU_TESTS=cpu; }
  local files # those that need nothing that the machine lacks, and quick to collect
  mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
  OMP_NUM_THREADS=1 "$PYTHON" -m pytest "${files[@]}" -m gpu -vv --tb short -ra -p benchmarks.gpu_failures \
    -p no:cacheprovider -p no:benchmark -n "$WORKERS" --dist worksteal --timeout 100 --durations 15 "${keep[@]}"
}

bench() {
  cd "$WORK/source" || return
  local device=(--device cuda ${BENCH:-})
  [ -z "$CPU" ] || device=(--quick --sections in_memory,end_to_end,methods,losses)
  "$PYTHON" -m benchmarks.bench "${device[@]}" --seconds "$((SECONDS_LEFT - 10))" --out "$WORK/bench"
  local code=$?
  cp "$WORK/bench/bench.json" "$OUT/bench.json" || return
  return $code
}

tune() {
  cd "$WORK/source" || return
  "$PYTHON" -m benchmarks.study tune --seconds "$((SECONDS_LEFT - 20))" --out "$WORK/study" ${CPU:+--cpu} || return
  local code=0
  "$PYTHON" -m benchmarks.study choose "$WORK/study/tune" || code=1
  tar -czf "$OUT/tune.tar.gz" -C "$WORK/source" conf/experiment docs/study_trials.md -C "$WORK/study" tune || code=1
  return $code
}

folds() {
  cd "$WORK/source" || return
  # shellcheck disable=SC2086 # several words
  "$PYTHON" -m benchmarks.study folds --seconds "$((SECONDS_LEFT - 5))" --out "$OUT" ${CPU:+--cpu} ${FOLDS:-}
}

variants() {
  cd "$WORK/source" || return
  # shellcheck disable=SC2086 # several words
  set -- ${VARIANTS:-remedies}
  "$PYTHON" -m benchmarks.study "$@" --seconds "$((SECONDS_LEFT - 5))" --out "$OUT" ${CPU:+--cpu} || return
  [ -n "$CPU" ] || cp "benchmarks/study/$1.csv" "$OUT"
}

main() {
  CPU=""
  [ "${1:-}" != pack ] || { shift; pack "$@"; exit; }
  [ "${1:-}" != --cpu ] || { CPU=1; shift; }
  export WORK=${WORK:-/tmp/skinkd-gpu} OUT=${OUT:-$PWD/gpu-out} PYTHON=${PYTHON:-python3}
  export WORKERS=${WORKERS:-$([ -z "$CPU" ] && echo 8 || echo 1)}
  mkdir -p "$WORK/outputs" "$OUT"
  OUT=$(cd "$OUT" && pwd)
  export PYTHONPATH=$WORK/source:$WORK/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1
  export SKINKD_DATA_DIR=${SKINKD_DATA_DIR:-$WORK/data} SKINKD_WEIGHTS=${SKINKD_WEIGHTS:-$WORK/weights}
  export SKINKD_OUTPUT_DIR=$WORK/outputs HF_HUB_OFFLINE=1
  [ -z "$CPU" ] || export CUDA_VISIBLE_DEVICES=
  [ $# -ge 2 ] || { sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | grep '^#' >&2; exit 2; }
  local failed=0
  while [ $# -ge 2 ]; do
    local stage=$1 began
    case $stage in install | tests | bench | tune | folds | variants) ;; *) echo "no stage $stage: install, tests, bench, tune, folds, variants" >&2; exit 2 ;; esac
    began=$(date +%s)
    echo "== $stage, at most $2 s"
    # a process of its own, so that a stage that is stopped takes its processes along and the next one goes on
    SECONDS_LEFT=$2 CPU=$CPU STAGE=$stage timeout -k 10 "$2" bash "${BASH_SOURCE[0]}" 2>&1 | tee "$OUT/$stage.log" | tail -n 60
    local code=${PIPESTATUS[0]}
    [ "$code" = 0 ] || failed=$((failed + 1))
    echo "== $stage: exit $code after $(($(date +%s) - began)) s"
    shift 2
  done
  exit "$failed"
}

if [ -n "${STAGE:-}" ]; then "$STAGE"; else main "$@"; fi
