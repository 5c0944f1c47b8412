#!/usr/bin/env bash
# Mirrors a topic between two real brokers with mirror.properties, and looks whether every record and the group's offset arrive.
# Needs `deploy/tallyhouse/setup.sh --kafka`; takes about a minute. `make regions` runs it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
kafka="$root/.setup/kafka/libs" mirror="$root/.setup/mirror"
records=${RECORDS:-5000} consumed=${CONSUMED:-3000} topic=tallyhouse.events group=tallyhouse

say() { printf 'regions: %s\n' "$*"; }
fail() { printf 'regions: %s\n' "$*" >&2; exit 1; }

[[ -d $kafka ]] || fail "Kafka is not set up: deploy/tallyhouse/setup.sh --kafka"
if ! (cd "$mirror" 2>/dev/null && sha256sum --check --strict --quiet "$here/jars.sha256" 2>/dev/null); then
    say "installing MirrorMaker's jars (33 MB)"
    rm -rf "$mirror"
    mvn --quiet --batch-mode --strict-checksums --file "$here/pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$mirror" -DincludeScope=runtime || fail "Maven could not install them; is the network there?"
    (cd "$mirror" && sha256sum --check --strict --quiet "$here/jars.sha256") || { rm -rf "$mirror"; fail "the jars are not those of jars.sha256"; }
fi

work=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
tool() { java -Xmx256m -XX:+UseSerialGC -cp "$kafka/*" "$@"; }

# broker NAME: starts one, and puts where it is into the variable NAME.
broker() {
    local name=$1 port control
    port=$(free_port) control=$(free_port)
    cat >"$work/$name.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$control
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$control
advertised.listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$control
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$work/$name
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
PROPERTIES
    tool kafka.tools.StorageTool format --standalone -t "$(tool kafka.tools.StorageTool random-uuid)" -c "$work/$name.properties" >/dev/null
    java -Xmx512m -XX:+UseSerialGC -cp "$kafka/*" kafka.Kafka "$work/$name.properties" >"$work/$name.log" 2>&1 &
    pids+=($!)
    printf -v "$name" '127.0.0.1:%s' "$port"
}

# within SECONDS WHAT COMMAND…: until it succeeds.
within() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < end)) || { tail -n 20 "$work"/*.log >&2 || true; fail "$what: not in time"; }
        sleep 0.5
    done
}

topics() { tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$@" 2>/dev/null; }
answers() { topics "$1" --list >/dev/null; }
# The sum of the end offsets of the topic.
ends() { tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$1" --topic $topic 2>/dev/null | awk -F: '{ n += $3 } END { print n + 0 }'; }
# The sum of the offsets that the group has committed.
committed() {
    tool org.apache.kafka.tools.ConsumerGroupCommand --bootstrap-server "$1" --group $group --describe 2>/dev/null |
        awk -v topic=$topic '$2 == topic && $4 ~ /^[0-9]+$/ { n += $4 } END { print n + 0 }'
}
has_read() { [[ $(committed "$active") == "$consumed" ]]; }
all_arrived() { [[ $(ends "$passive") == "$records" ]]; }
is_near() { local at; at=$(committed "$passive"); ((at > consumed - 300 && at <= consumed)); }

broker active
broker passive
within 60 "the active broker" answers "$active"
within 60 "the passive broker" answers "$passive"
topics "$active" --create --topic $topic --partitions 2 >/dev/null

sed -e "s/ACTIVE_BROKERS/$active/; s/PASSIVE_BROKERS/$passive/" -e 's/\(replication.factor\) = 3/\1 = 1/' \
    -e 's/interval.seconds = .*/interval.seconds = 1/' "$here/mirror.properties" >"$work/mirror.properties"
java -Xmx512m -XX:+UseSerialGC -cp "$kafka/*:$mirror/*" org.apache.kafka.connect.mirror.MirrorMaker "$work/mirror.properties" >"$work/mirror.log" 2>&1 &
pids+=($!)

seq "$records" | tool org.apache.kafka.tools.ConsoleProducer --bootstrap-server "$active" --topic $topic >/dev/null 2>&1
[[ $(ends "$active") == "$records" ]] || fail "the active region has $(ends "$active") of $records records"
tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$active" --topic $topic --group $group --from-beginning \
    --max-messages "$consumed" >/dev/null 2>&1
within 60 "the group in the active region" has_read

within 120 "all records in the passive region" all_arrived
say "all $records records are in the passive region"
within 120 "the group's offset in the passive region" is_near
say "the group goes on there at $(committed "$passive") of the $consumed that were read: at most so many come again, and are skipped by id"
