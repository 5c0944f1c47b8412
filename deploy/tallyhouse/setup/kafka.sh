# Apache Kafka: its own jars, at the version of kafka/pom.xml, for tests and `make kafka`.

install_kafka() {
    local pom="$here/kafka/pom.xml" home="$state/kafka"
    if is_made kafka "$pom" && compgen -G "$home/libs/kafka_2.13-*.jar" >/dev/null; then
        return
    fi
    local java
    java=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [[ ${java:-0} -ge 17 ]] || fail "Kafka needs Java 17 or newer; the java on PATH is ${java:-of no known version}"
    say "Kafka: installing its jars (54 MB)"
    rm -rf "$home"
    mkdir -p "$home"
    attempt mvn --quiet --batch-mode --file "$pom" dependency:copy-dependencies \
        -DoutputDirectory="$home/libs" -DincludeScope=runtime >&2 ||
        fail "Maven could not install Kafka's jars; is the network there?
       KAFKA_TESTS=off leaves out the tests that need Kafka; each says so"
    mark_made kafka "$pom"
}
