#!/usr/bin/env bash
# try-systemd.sh DEB [LIBRARY]: installs a package on a copy of this machine that is thrown away, as try-package.sh does, and starts a systemd of its own there: the
# unit runs with its hardening, and the embedded ClickHouse in its cage. Kills the service, upgrades it, stops it, breaks its variables, removes it.
# Needs root and cgroups; ends with 77 where there are none. Ports are those of INGEST_ADDR and so on.
set -euo pipefail

deb=$(realpath "$1") library=${2:+$(realpath "$2")}
hierarchy=/sys/fs/cgroup
[[ ! -d $hierarchy/systemd ]] || hierarchy=$hierarchy/systemd
group=$hierarchy/tallyhouse-try-$$
umask 022

if [[ ${TRY_INSIDE:-} != yes ]]; then
    [[ -x /lib/systemd/systemd ]] && command -v unshare >/dev/null && mkdir "$group" 2>/dev/null || exit 77
    scratch=$(mktemp -d "${TRY_FOLDER:-/var/tmp}/tallyhouse-systemd.XXXXXX")
    finish() {
        find "$group" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
        rmdir "$group" || true
        rm -rf --one-file-system "$scratch"
    }
    trap finish EXIT
    status=0
    # Its processes and mounts end with it.
    TRY_INSIDE=yes TRY_SCRATCH=$scratch TRY_GROUP=$group timeout --kill-after=5 "${TRY_SECONDS:-300}" \
        unshare --mount --pid --cgroup --fork --kill-child "$0" "$deb" ${library:+"$library"} >"$scratch/systemd.log" 2>&1 || status=$?
    cat "$scratch/upper/steps.out" >&2 || cat "$scratch/systemd.log" >&2
    [[ $status -ne 77 ]] || exit 77
    grep -qx 'try-systemd: all as it should be' "$scratch/upper/steps.out" || exit 1
    exit 0
fi

# From here on in namespaces of its own.
root=$TRY_SCRATCH/root
mkdir "$TRY_SCRATCH"/{upper,work,root}
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$TRY_SCRATCH/upper,workdir=$TRY_SCRATCH/work" "$root" || exit 77
mount -t proc proc "$root/proc"
mount --bind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup" -o mode=755
if [[ $TRY_GROUP == */systemd/* ]]; then
    mkdir "$root/sys/fs/cgroup/systemd"
    mount --bind "$TRY_GROUP" "$root/sys/fs/cgroup/systemd"
else
    mount --bind "$TRY_GROUP" "$root/sys/fs/cgroup"
fi
# No devices of the machine but these.
mount -t tmpfs tmpfs "$root/dev" -o mode=755
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root"/dev/{pts,shm}
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666,mode=620
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/run" -o mode=755
mount -t tmpfs tmpfs "$root/tmp"
cp "$deb" "$root/package.deb"
if [[ -n $library ]]; then
    mkdir -p "$root/usr/lib/tallyhouse"
    touch "$root/usr/lib/tallyhouse/libchdb.so"
    mount --bind "$library" "$root/usr/lib/tallyhouse/libchdb.so"
fi
# Nothing of the machine's own starts.
rm -rf "$root"/etc/systemd/system/*.wants
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
for name in INGEST_ADDR INGEST_ADMIN_ADDR QUERY_ADDR QUERY_ADMIN_ADDR CLICKHOUSE_HTTP_PORT; do
    [[ -z ${!name:-} ]] || echo "$name=${!name}"
done >"$root/ports"
cat >"$root/etc/systemd/system/steps.service" <<'UNIT'
[Unit]
DefaultDependencies=no
Wants=systemd-journald.service
After=systemd-journald.service

[Service]
Type=oneshot
ExecStart=/bin/bash /steps.sh
StandardOutput=file:/steps.out
StandardError=file:/steps.out
ExecStopPost=/bin/systemctl exit --force
UNIT
cat >"$root/steps.sh" <<'STEPS'
set -euo pipefail
step() { printf 'try-systemd: %s\n' "$*"; }
fail() {
    printf 'try-systemd: %s\n' "$*"
    journalctl --unit tallyhouse --no-pager --output cat | tail -n 5
    exit 1
}
show() { systemctl show --property "$1" --value tallyhouse; }
expect() { [[ $(show "$1") == "$2" ]] || fail "$1 is $(show "$1"), not $2"; }
eventually() {
    local deadline=$((SECONDS + 60))
    until "$@"; do
        ((SECONDS < deadline)) || fail "not within 60 s: $*"
        sleep 0.1
    done
}
. /ports
ready() {
    curl -sf --max-time 2 -o /dev/null "http://${INGEST_ADMIN_ADDR:-127.0.0.1:9081}/health/ready" &&
        curl -sf --max-time 2 -o /dev/null "http://${QUERY_ADMIN_ADDR:-127.0.0.1:9082}/health/ready"
}
answer() { curl -s "http://${QUERY_ADDR:-127.0.0.1:8082}/v1/metrics/revenue?granularity=hour" -H "X-API-Key: $key"; }

step "install and start"
dpkg --install /package.deb >/dev/null
cat /ports >>/etc/tallyhouse/tallyhouse.env
systemctl enable --now tallyhouse 2>/dev/null
eventually ready
expect NRestarts 0
key=$(tallyhousectl keys create --project main --scope ingest --scope query --json | sed 's/.*"key":"\([^"]*\)".*/\1/')
curl -sf "http://${INGEST_ADDR:-127.0.0.1:8081}/v1/events?wait=stored" -H "X-API-Key: $key" \
    -d '{"eventType":"purchase","userId":"u-7","properties":{"amount":12.5}}' >/dev/null
[[ $(answer) == *12.5* ]] || fail "$(answer)"

step "hardened, and ClickHouse caged"
pid=$(show MainPID)
grep -q '^CapBnd:.0*$' "/proc/$pid/status" && grep -q '^Seccomp:.2$' "/proc/$pid/status" || fail "$(cat "/proc/$pid/status")"
curl -s "http://${INGEST_ADMIN_ADDR:-127.0.0.1:9081}/health" | grep -q '"cage":{"status":"up"' || fail "no cage, or a part of it"

step "killed: it is started again"
kill -KILL "$pid"
restarted() { [[ $(show NRestarts) == 1 ]]; }
eventually restarted
eventually ready
[[ $(answer) == *12.5* ]] || fail "after a kill: $(answer)"

step "an upgrade restarts it"
pid=$(show MainPID)
dpkg --install /package.deb >/dev/null
eventually ready
[[ $(show MainPID) != "$pid" ]] || fail "it is the process of before"
[[ $(answer) == *12.5* ]] || fail "after an upgrade: $(answer)"

step "a stop drains"
systemctl stop tallyhouse
expect Result success
expect ExecMainStatus 0

step "variables that cannot be used are not tried again"
echo junk >>/etc/tallyhouse/tallyhouse.env
systemctl start tallyhouse || true
failed() { [[ $(show ActiveState) == failed ]]; }
eventually failed
expect ExecMainStatus 78
journalctl --unit tallyhouse --no-pager --output cat | tail -n 1 | grep -q 'is not NAME=VALUE' || fail "the journal does not say why"

step "remove"
sed -i '$d' /etc/tallyhouse/tallyhouse.env
systemctl start tallyhouse
dpkg --remove tallyhouse >/dev/null
! pgrep -x tallyhouse || fail "it still runs"
[[ -d /var/lib/tallyhouse/clickhouse ]] || fail "the data is gone"
step "all as it should be"
STEPS
exec chroot "$root" env -i container=nspawn PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=steps.service --log-target=console --show-status=no
