# Apache Kafka: its own jars, at the version of kafka/pom.xml and with the hashes of kafka/jars.sha256, for tests and `make kafka`; and its
# MirrorMaker beside them, of ../regions, for `make regions`.
# For a new version: `sha256sum *.jar` in .setup/kafka/libs, from two networks that have nothing to do with each other.

install_kafka() {
    local pom="$here/kafka/pom.xml" hashes="$here/kafka/jars.sha256"
    if is_made kafka "$pom" "$hashes" && compgen -G "$state/kafka/libs/kafka_2.13-*.jar" >/dev/null; then
        return
    fi
    local java
    java=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [[ ${java:-0} -ge 17 ]] || fail "Kafka needs Java 17 or newer; the java on PATH is ${java:-of no known version}"
    install_jars kafka "Kafka's jars (54 MB)" "$here/kafka" "KAFKA_TESTS=off leaves out the tests that need Kafka; each says so"
}

install_mirror() {
    local of="$here/../regions"
    if is_made mirror "$of/pom.xml" "$of/jars.sha256" && compgen -G "$state/mirror/libs/connect-mirror-*.jar" >/dev/null; then
        return
    fi
    install_jars mirror "MirrorMaker's jars (33 MB)" "$of" "only \`make regions\` needs them"
}

# install_jars NAME WHAT FOLDER_OF_POM HINT
install_jars() {
    local name=$1 what=$2 pom="$3/pom.xml" hashes="$3/jars.sha256" hint=$4 home="$state/$1"
    say "installing $what"
    # Beside its place: a broker may be running on the one that is there.
    local fresh="$home.new"
    rm -rf "$fresh"
    mkdir -p "$fresh"
    attempt mvn --quiet --batch-mode --strict-checksums --file "$pom" dependency:copy-dependencies \
        -DoutputDirectory="$fresh/libs" -DincludeScope=runtime >&2 ||
        fail "Maven could not install $what; is the network there?
       $hint"
    # Maven compares with what the repository itself says; this compares with what was pinned. Neither more jars nor fewer.
    if ! (cd "$fresh/libs" && sha256sum --check --strict --quiet "$hashes" && diff <(sed 's/^[0-9a-f]* [ *]//' "$hashes") <(LC_ALL=C ls)) >&2; then
        rm -rf "$fresh"
        fail "$what are not those of $hashes, and were removed"
    fi
    rm -rf "$home"
    mv "$fresh" "$home"
    mark_made "$name" "$pom" "$hashes"
}
