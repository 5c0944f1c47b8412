# Programs that come from the system: through apt when we may, else as a list of what to install.

# missing_packages FOR_TESTS WITH_KAFKA: the Debian packages of the programs that are not there.
missing_packages() {
    has cc || echo build-essential
    has curl || echo curl
    has python3 || echo python3
    # The module is there without the package, and then makes environments without pip.
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then echo python3-venv; fi
    has node || echo nodejs
    has npm || echo npm
    has flock || echo util-linux
    [[ "$1" == no ]] || has redis-server || echo redis-server
    # Rules are tried by promtool and by a Prometheus that scrapes, the configuration of its Alertmanager by amtool.
    [[ "$1" == no ]] || { has promtool && has prometheus; } || echo prometheus
    [[ "$1" == no ]] || has amtool || echo prometheus-alertmanager
    # In front of two instances of each service, while they are restarted. Debian puts it where not everybody's PATH leads.
    [[ "$1" == no ]] || has nginx || [[ -x /usr/sbin/nginx ]] || echo nginx-light
    [[ "$2" == no ]] || has java || echo default-jre-headless
    [[ "$2" == no ]] || has mvn || echo maven
    # Brokers are bound to the life of whoever starts them with it.
    [[ "$2" == no ]] || has setpriv || echo util-linux
}

require_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$1" "$2")
    if [[ ${#missing[@]} -gt 0 ]]; then
        install_packages "${missing[@]}"
        mapfile -t missing < <(missing_packages "$1" "$2")
        [[ ${#missing[@]} -eq 0 ]] || fail "still missing after installation: ${missing[*]}"
    fi
    has cargo || fail "cargo is missing: install Rust from https://rustup.rs and run this again"
}

install_packages() {
    if [[ $(id -u) -ne 0 ]] || ! has apt-get; then
        fail "please install these packages (names as in Debian) and run this again: $*
       on Debian or Ubuntu: sudo apt-get install $*"
    fi
    say "installing $*"
    attempt apt-get -qq update >&2
    without_services attempt env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --yes --no-install-recommends "$@" >&2
}

# Packages may start daemons when they are installed. The tests start a Redis and a Prometheus of their own, and none may be left
# running on its well-known port: policy-rc.d forbids starting while the command runs. A policy of the machine's own is kept.
without_services() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [[ -e $policy ]]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    "$@" || status=$?
    rm -f "$policy"
    # It would start with the machine.
    if has systemctl; then systemctl disable redis-server prometheus prometheus-alertmanager nginx >/dev/null 2>&1 || true; fi
    return "$status"
}
