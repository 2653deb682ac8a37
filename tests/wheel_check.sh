#!/bin/sh
# Install the wheel in a fresh environment and run it from an empty directory: wheel_check.sh PYTHON WHEEL
set -eu
python=$1
wheel=$(realpath "$2")
constraints=$(realpath constraints.txt)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --disable-pip-version-check --quiet --constraint "$constraints" "$wheel"
mkdir "$work/elsewhere" && cd "$work/elsewhere"
unset PYTHONPATH
"$work/venv/bin/python" -m skinkd.train --cfg job experiment=quickstart >/dev/null
"$work/venv/bin/python" -m skinkd.train experiment=quickstart trainer.max_epochs=1 trainer.limit_train_batches=2 logger=none
test -f outputs/*/metrics.json
echo "the wheel runs from another directory"
