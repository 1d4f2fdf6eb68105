#!/usr/bin/env bash
# Run tests/cluster on the test cluster, first without accounting, then with it; exit code of the tests. Root on Debian 12.
#
#   test.sh [ARGUMENTS OF PYTEST]     default: -m cluster tests/cluster
set -uo pipefail

here=$(dirname "$(readlink -f "$0")")
python=${VENV:-.venv}/bin/python
cd "$here/../.." || exit
[ $# -gt 0 ] || set -- -m cluster tests/cluster

# Whatever happens, nothing is left running; what was printed on the way is what failed.
trap '"$here/testcluster" down' EXIT
trap 'exit 130' INT TERM

"$here/testcluster" up --no-accounting || exit
# what is known of jobs by others than the accounting; jobs that are preempted without a warning
"$here/testcluster" run "$python" -m pytest -q -m cluster tests/cluster/test_{scheduler,submit,doctor,walltime}.py \
    -k 'accounting or whoever or (preempted and ddp)' || exit
"$here/testcluster" down || exit
"$here/testcluster" up || exit
"$here/testcluster" run "$python" -m pytest "$@"
