# Apache Kafka: its own jars, at the version of kafka/pom.xml and with the hashes of kafka/jars.sha256, for tests and `make kafka`.
# For a new version: `sha256sum *.jar` in .setup/kafka/libs, from two networks that have nothing to do with each other.

install_kafka() {
    local pom="$here/kafka/pom.xml" hashes="$here/kafka/jars.sha256" home="$state/kafka"
    if is_made kafka "$pom" "$hashes" && compgen -G "$home/libs/kafka_2.13-*.jar" >/dev/null; then
        return
    fi
    local java
    java=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [[ ${java:-0} -ge 17 ]] || fail "Kafka needs Java 17 or newer; the java on PATH is ${java:-of no known version}"
    say "Kafka: installing its jars (54 MB)"
    # Beside its place: a broker may be running on the one that is there.
    local fresh="$home.new"
    rm -rf "$fresh"
    mkdir -p "$fresh"
    attempt mvn --quiet --batch-mode --strict-checksums --file "$pom" dependency:copy-dependencies \
        -DoutputDirectory="$fresh/libs" -DincludeScope=runtime >&2 ||
        fail "Maven could not install Kafka's jars; is the network there?
       KAFKA_TESTS=off leaves out the tests that need Kafka; each says so"
    # Maven compares with what the repository itself says; this compares with what was pinned. Neither more jars nor fewer.
    if ! (cd "$fresh/libs" && sha256sum --check --strict --quiet "$hashes" && diff <(sed 's/^[0-9a-f]* [ *]//' "$hashes") <(LC_ALL=C ls)) >&2; then
        rm -rf "$fresh"
        fail "Kafka's jars are not those of deploy/tallyhouse/kafka/jars.sha256, and were removed"
    fi
    rm -rf "$home"
    mv "$fresh" "$home"
    mark_made kafka "$pom" "$hashes"
}
