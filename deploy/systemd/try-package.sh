#!/usr/bin/env bash
# try-package.sh DEB [LIBRARY]: installs a package as dpkg does, on a copy of this machine that is thrown away (an overlay on its root folder), runs the
# service as its unit says, without systemd, makes a key, sends an event and reads the answer, upgrades, removes and purges. Needs root; ends with 77 where no
# such copy can be made. LIBRARY is ClickHouse's, for a package without it; ports are those of the variables INGEST_ADDR and so on.
set -euo pipefail

deb=$(realpath "$1") library=${2:+$(realpath "$2")}
umask 022
scratch=$(mktemp -d "${TRY_FOLDER:-/var/tmp}/tallyhouse-package.XXXXXX")
root=$scratch/root
service=
# Where a program finds the library that came with it.
beside=/usr/lib/tallyhouse/libchdb.so

fail() {
    printf 'try-package: %s\n' "$*" >&2
    exit 1
}
step() { printf 'try-package: %s\n' "$*" >&2; }

finish() {
    [[ -z $service ]] || kill -KILL "$service" 2>/dev/null || true
    [[ -z $service ]] || wait "$service" 2>/dev/null || true
    umount --lazy "$root$beside" 2>/dev/null || true
    umount --lazy "$root"/{proc,sys,dev} "$root" 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT

mkdir "$scratch"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$root" 2>/dev/null || exit 77
mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" && mount --rbind /dev "$root/dev" || exit 77
cp "$deb" "$root/package.deb"

inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"; }
# The value of a setting in the unit.
unit() { sed -n "s/^$1=//p" "$root/usr/lib/systemd/system/tallyhouse.service"; }
# path mode owner
has() {
    local found
    found=$(inside stat -c '%a %U:%G' "$1") || fail "$1 is not there"
    [[ $found == "$2 $3" ]] || fail "$1 is $found, not $2 $3"
}
eventually() {
    local deadline=$((SECONDS + 90))
    until "$@"; do
        ((SECONDS < deadline)) || fail "not within 90 s: $*; $(tail -n 3 "$scratch/log")"
        [[ -z $service ]] || kill -0 "$service" 2>/dev/null || fail "the service ended: $(tail -n 3 "$scratch/log")"
        sleep 0.1
    done
}

step "install"
inside dpkg --install /package.deb >"$scratch/dpkg" 2>&1 || fail "$(cat "$scratch/dpkg")"
grep -q 'systemctl enable --now tallyhouse' "$scratch/dpkg" || fail "it does not say what is next: $(cat "$scratch/dpkg")"
has /usr/bin/tallyhouse 755 root:root
has /usr/bin/tallyhousectl 755 root:root
has /usr/lib/systemd/system/tallyhouse.service 644 root:root
has /etc/tallyhouse 750 root:tallyhouse
has /etc/tallyhouse/tallyhouse.env 640 root:tallyhouse
has /var/lib/tallyhouse 700 tallyhouse:tallyhouse
[[ -x $root$(unit ExecStart | cut -d ' ' -f 1) ]] || fail "there is no $(unit ExecStart)"
inside getent passwd tallyhouse | grep -q ':/var/lib/tallyhouse:/usr/sbin/nologin$' || fail "the user is another"

step "start, as the unit says"
if [[ -n $library ]]; then
    mkdir -p "$root$(dirname "$beside")"
    touch "$root$beside"
    mount --bind "$library" "$root$beside"
fi
variables=$root/etc/tallyhouse/tallyhouse.env
{
    echo "# of this machine"
    for name in INGEST_ADDR INGEST_ADMIN_ADDR QUERY_ADDR QUERY_ADMIN_ADDR CLICKHOUSE_HTTP_PORT; do
        [[ -z ${!name:-} ]] || echo "$name=${!name}"
    done
    echo "LOG_FILE=/var/log/tallyhouse/tallyhouse.log"
} >>"$variables"
ingest=${INGEST_ADDR:-127.0.0.1:8081} query=${QUERY_ADDR:-127.0.0.1:8082}
admins=("${INGEST_ADMIN_ADDR:-127.0.0.1:9081}" "${QUERY_ADMIN_ADDR:-127.0.0.1:9082}")
user=$(unit User)
# What systemd does for the service: its folders, its user, no capabilities, its variables, its limits.
start() {
    inside install -d -o "$user" -g "$user" -m "$(unit LogsDirectoryMode)" "/var/log/$(unit LogsDirectory)"
    chroot "$root" bash -c 'ulimit -c 0; ulimit -n "$1" 2>/dev/null; umask "$2"; cd "$3"; shift 3; exec "$@"' - \
        "$(unit LimitNOFILE)" "$(unit UMask)" "$(unit WorkingDirectory)" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$(unit Environment)" \
        setpriv --reuid="$user" --regid="$(unit Group)" --init-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
        $(unit ExecStart) >"$scratch/log" 2>&1 &
    service=$!
    eventually ready "${admins[0]}"
    eventually ready "${admins[1]}"
}
ready() { curl --silent --fail --max-time 2 --output /dev/null "http://$1/health/ready"; }
stop() {
    local began=$SECONDS status=0 within
    within=$(unit TimeoutStopSec)
    kill -TERM "$service"
    wait "$service" || status=$?
    service=
    [[ $status -eq 0 ]] || fail "it ended with $status: $(tail -n 3 "$scratch/log")"
    ((SECONDS - began < ${within%s})) || fail "it took longer to stop than $within"
}
start
[[ -s $root/var/log/tallyhouse/tallyhouse.log ]] || fail "LOG_FILE is empty"

step "a key, an event, its answer"
key=$(inside tallyhousectl keys create --project main --scope ingest --scope query --json | sed 's/.*"key":"\([^"]*\)".*/\1/')
[[ $key == th_* ]] || fail "no key: $key"
sent=$(curl -s "http://$ingest/v1/events?wait=stored" -H "X-API-Key: $key" -d '{"eventType":"purchase","userId":"u-7","properties":{"amount":12.5}}')
[[ $sent == *accepted* ]] || fail "$sent"
answer() { curl -s "http://$query/v1/metrics/revenue?granularity=hour" -H "X-API-Key: $key"; }
[[ $(answer) == *12.5* ]] || fail "$(answer)"
inside find /var/lib/tallyhouse ! -user tallyhouse | grep . && fail "files of the data folder are not the service's"

step "a log that was moved away"
mv "$root"/var/log/tallyhouse/tallyhouse.log{,.moved}
kill -HUP "$service"
reopened() { [[ -s $root/var/log/tallyhouse/tallyhouse.log ]]; }
eventually reopened

step "upgrade"
inside dpkg --install /package.deb >"$scratch/dpkg" 2>&1 || fail "$(cat "$scratch/dpkg")"
grep -q '^# of this machine$' "$variables" || fail "the variables are lost"
has /etc/tallyhouse/tallyhouse.env 640 root:tallyhouse
stop
start
[[ $(answer) == *12.5* ]] || fail "after the upgrade: $(answer)"
stop

step "a variable that cannot be used"
echo "this is no variable" >>"$variables"
status=0
inside tallyhousectl doctor >"$scratch/doctor" 2>&1 || status=$?
[[ $status -eq $(unit RestartPreventExitStatus) ]] || fail "it ended with $status: $(cat "$scratch/doctor")"
grep -q 'tallyhouse.env, line [0-9]*: is not NAME=VALUE' "$scratch/doctor" || fail "$(cat "$scratch/doctor")"

step "remove"
[[ -z $library ]] || { umount "$root$beside" && rm -r "$root$(dirname "$beside")"; }
inside dpkg --remove tallyhouse >"$scratch/dpkg" 2>&1 || fail "$(cat "$scratch/dpkg")"
for gone in /usr/bin/tallyhouse /usr/bin/tallyhousectl /usr/lib/systemd/system/tallyhouse.service /usr/lib/tallyhouse; do
    [[ ! -e $root$gone ]] || fail "$gone stays"
done
[[ -f $variables && -d $root/var/lib/tallyhouse/clickhouse ]] || fail "variables or data are gone"
inside dpkg --purge tallyhouse >"$scratch/dpkg" 2>&1 || fail "$(cat "$scratch/dpkg")"
[[ ! -e $root/etc/tallyhouse && ! -e $root/var/log/tallyhouse ]] || fail "a purge leaves variables or logs"
[[ -d $root/var/lib/tallyhouse/clickhouse ]] || fail "a purge removed what was counted"
grep -q '/var/lib/tallyhouse and the user tallyhouse stay' "$scratch/dpkg" || fail "a purge does not tell what stays"
step "all as it should be"
