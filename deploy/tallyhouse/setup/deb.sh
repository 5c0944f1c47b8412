# cargo-deb, which `make deb` builds the Debian package with: built from its sources, at the version below and with its own lock file.

CARGO_DEB=3.8.0

install_cargo_deb() {
    local home="$state/cargo-deb" recipe
    recipe="${BASH_SOURCE[0]}"
    if is_made cargo-deb "$recipe" && [[ -x $home/bin/cargo-deb ]]; then
        return
    fi
    # It asks these for the packages of the libraries that the program loads, and to compress.
    local tool missing=()
    for tool in dpkg-shlibdeps:dpkg-dev xz:xz-utils strip:binutils; do
        has "${tool%%:*}" || missing+=("${tool##*:}")
    done
    [[ ${#missing[@]} -eq 0 ]] || install_packages "${missing[@]}"
    if [[ $("$home/bin/cargo-deb" --version 2>/dev/null) != *"$CARGO_DEB"* ]]; then
        say "cargo-deb: building version $CARGO_DEB (some minutes)"
        attempt cargo install --quiet --locked cargo-deb --version "$CARGO_DEB" --no-default-features --root "$home" --target-dir "$home/target" >&2 ||
            fail "cargo could not build cargo-deb $CARGO_DEB; is the network there?"
        rm -rf "$home/target"
    fi
    mark_made cargo-deb "$recipe"
}
