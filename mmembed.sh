#!/bin/sh
# Sets up .venv when needed, then runs one of three jobs:
#
#   ./mmembed.sh quickstart [options]   train, evaluate, index and search a small model on this CPU
#   ./mmembed.sh test [pytest options]  the tests
#   ./mmembed.sh lint                   ruff and mypy
#
# Needs a shell and Python 3.11 or newer; PYTHON=/path/to/python chooses one. Safe to interrupt and
# to repeat: an installation counts as done only after it has ended well.
set -eu

die() {
    printf 'mmembed.sh: %s\n' "$1" >&2
    exit 1
}

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit "$1"
}

is_python_311() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_python_311 "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer."
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if is_python_311 "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer found. Install one, or name it: PYTHON=/path/to/python $0 ..."
}

venv_python() {
    for candidate in .venv/bin/python .venv/Scripts/python.exe; do
        if [ -x "$candidate" ]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

venv_works() {
    python=$(venv_python)
    [ -n "$python" ] && is_python_311 "$python" && "$python" -m pip --version >/dev/null 2>&1
}

# Debian's python3 comes without ensurepip, so `venv` alone can fail there; virtualenv brings its
# own pip and can be installed into a folder, which a system-managed Python allows.
make_venv() {
    venv_works && return
    if [ -e .venv ] && [ ! -e .venv/pyvenv.cfg ]; then
        die ".venv exists but is no virtual environment. Move it away and run this again."
    fi
    base=$(find_python) || exit 1
    "$base" -m venv --clear .venv >/dev/null 2>&1 && venv_works && return
    "$base" -m virtualenv --quiet --clear .venv >/dev/null 2>&1 && venv_works && return
    bootstrap=.venv.bootstrap
    if "$base" -m pip install --quiet --target "$bootstrap" virtualenv >/dev/null 2>&1; then
        PYTHONPATH=$bootstrap "$base" -m virtualenv --quiet --clear .venv || true
    fi
    rm -rf "$bootstrap"
    venv_works || die "$base cannot create a virtual environment: it has neither venv with pip nor
virtualenv. On Debian and Ubuntu: apt install python3-venv. Then run this again."
}

# install EXTRA: `pip install -e '.[EXTRA]'`, unless it was done for this pyproject.toml.
install() {
    extra=$1
    make_venv
    python=$(venv_python)
    wanted=$(cksum <pyproject.toml)
    for stamp in ".venv/.installed-$extra" .venv/.installed-dev; do
        if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
            return
        fi
    done
    log=.venv/install.log
    echo "Installing mmembed[$extra] into .venv: some GB, a few minutes (log: $log)"
    "$python" -m pip install --disable-pip-version-check --progress-bar off -e ".[$extra]" \
        >"$log" 2>&1 &
    installer=$!
    trap 'kill "$installer" 2>/dev/null; exit 130' INT TERM
    seconds=0
    while kill -0 "$installer" 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        if [ -t 1 ]; then
            printf '\r%5d s  %-70.70s' "$seconds" "$(tail -n 1 "$log" | tr -d '\r\033')"
        elif [ $((seconds % 30)) -eq 0 ]; then
            printf '%5d s  %.70s\n' "$seconds" "$(tail -n 1 "$log")"
        fi
    done
    trap - INT TERM
    [ -t 1 ] && printf '\r%80s\r' ''
    if ! wait "$installer"; then
        tail -n 20 "$log" >&2
        die "the installation failed (all of it: $log). Run the same command again to retry."
    fi
    echo "Installed in $seconds s."
    printf '%s\n' "$wanted" >".venv/.installed-$extra"
}

cd "$(dirname "$0")"
job=${1:-}
[ $# -gt 0 ] && shift
case $job in
    quickstart)
        install quickstart
        exec "$(dirname "$python")/mmembed" quickstart "$@"
        ;;
    test)
        install dev
        # One file on each core at a time, with one thread: more would wait for each other.
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
        exec "$python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile "$@"
        ;;
    lint)
        install dev
        "$python" -m ruff check .
        "$python" -m ruff format --check .
        exec "$python" -m mypy
        ;;
    help | -h | --help) usage 0 ;;
    *) usage 2 >&2 ;;
esac
