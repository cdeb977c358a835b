#!/usr/bin/env bash
# The GPU column of the table in benchmarks/README.md within six minutes, on a bare machine with a GPU and Python 3.11 or later:
#
#     benchmarks/gpu.sh                        writes memory.json and speed.json into $OUT (default ./out)
#     PYTHON=python3 benchmarks/gpu.sh         with an interpreter that has steerlens, instead of a new environment
#     DEVICE=cpu SHAPE=tiny benchmarks/gpu.sh  whether the commands work
#
# What time runs out for is missing from the files; what has been measured is in them.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
out=${OUT:-out}
end=$((SECONDS + ${LIMIT:-355}))
options=(--device "${DEVICE:-cuda}" --shape "${SHAPE:-gemma2b}")
status=0

# within SECONDS COMMAND...: the command, for no longer than that nor than what is left
within() {
    local left=$((end - SECONDS))
    timeout --kill-after=5 "$(($1 < left ? $1 : left > 1 ? left : 1))" "${@:2}"
}

measure() {
    echo "== $2 (after $SECONDS s)"
    within "$1" "$python" "$root/benchmarks/$2" "${options[@]}" "${@:3}" || { status=$? && echo "$2 ended with status $status"; }
}

mkdir -p "$out" || exit
python=${PYTHON:-}
if [ -z "$python" ]; then
    environment=$(mktemp -d)
    trap 'rm -rf "$environment"' EXIT
    python3 -m venv "$environment" || exit
    python=$environment/bin/python
    within 180 "$python" -m pip install --quiet "$root" || exit # on Linux the usual torch is the CUDA build
fi
if [ "${DEVICE:-cuda}" = cuda ]; then
    "$python" -c 'import torch; raise SystemExit(None if torch.cuda.is_available() else "PyTorch finds no GPU")' || exit
fi
measure 100 memory.py --repeats 1 --out "$out/memory.json"
measure 355 speed.py --repeats "${REPEATS:-3}" --out "$out/speed.json"
echo "== done after $SECONDS s"
exit "$status"
