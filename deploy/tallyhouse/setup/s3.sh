# An S3 for the tests of backups: moto's server, from PyPI, in an environment of its own (.setup/s3). moto_server is its program.

install_s3() {
    local pins="$here/requirements-s3.txt" venv="$state/s3"
    if is_made s3 "$pins" && [[ -x $venv/bin/moto_server ]]; then
        return
    fi
    say "S3 for tests: installing moto (33 MB)"
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    if ! attempt "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: -r "$pins" >&2; then
        rm -rf "$venv"
        say "moto is not there for this Python or this machine: the tests of backups in a bucket are SKIPPED"
        return
    fi
    mark_made s3 "$pins"
}
