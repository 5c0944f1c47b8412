# Shared by the steps of setup.sh.

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# has_go_of GO.MOD: whether Go is there, as new as the module asks for.
has_go_of() {
    local minor wanted
    wanted=$(sed -n 's/^go 1\.\([0-9]*\).*/\1/p' "$1")
    minor=$(go version 2>/dev/null | sed -n 's/.* go1\.\([0-9]*\).*/\1/p')
    [[ ${minor:-0} -ge $wanted ]] && return
    say "Go 1.$wanted or newer is not on PATH"
    return 1
}

# is_made NAME FILE…: whether NAME was made from these files as they are now.
is_made() {
    local marker="$state/$1.made"
    shift
    [[ -f "$marker" && "$(cat "$marker")" == "$(cat "$@" | sha256sum)" ]]
}

# mark_made NAME FILE…: from now on it was.
mark_made() {
    local marker="$state/$1.made"
    shift
    cat "$@" | sha256sum >"$marker.new"
    mv "$marker.new" "$marker"
}

# attempt COMMAND…: three times, because registries and mirrors have bad moments.
attempt() {
    local try
    for try in 1 2 3; do
        "$@" && return 0
        [[ $try == 3 ]] || { say "that failed; once more in $((try * 5)) s"; sleep $((try * 5)); }
    done
    return 1
}
