# ClickHouse as a library, from npm, at the version and with the hash of package-lock.json.

install_engine() {
    local home="$state/engine"
    local library="$home/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so"
    if is_made engine "$here/package.json" "$here/package-lock.json" && [[ -f $library ]]; then
        return
    fi
    if has clickhouse && [[ "${TALLYHOUSE_ENGINE:-auto}" != library ]]; then
        say "ClickHouse: the one on PATH is used ($(command -v clickhouse))"
        return
    fi
    local platform
    platform="$(uname -s)-$(uname -m)"
    [[ $platform == Linux-x86_64 ]] ||
        fail "there is no ClickHouse library for $platform; install ClickHouse 26 so that \`clickhouse\` is on PATH, then run this again"
    say "ClickHouse: installing the library (180 MB to download, 570 MB on disk)"
    mkdir -p "$home"
    cp "$here/package.json" "$here/package-lock.json" "$home/"
    attempt npm --prefix "$home" ci --no-audit --no-fund --loglevel=error --ignore-scripts >&2 ||
        fail "npm could not install the ClickHouse library; is the network there?"
    [[ -f $library ]] || fail "npm installed no ClickHouse library for this machine (glibc is needed)"
    mark_made engine "$here/package.json" "$here/package-lock.json"
}
