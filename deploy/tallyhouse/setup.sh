#!/usr/bin/env bash
# Puts in place what building, running and testing need. Each step says what it does, leaves a marker of what it was made
# from in .setup/, and is skipped as long as the marker fits; so a second run takes a moment and needs no network.
#
#   setup.sh [--tests] [--kafka] [--mirror] [--deb]
#     --tests   also what only the tests need: Redis, Prometheus, nginx, an S3, and Kafka unless KAFKA_TESTS=off
#     --kafka   also Kafka
#     --mirror  also Kafka and its MirrorMaker
#     --deb     also cargo-deb
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=$(cd "$here/../.." && pwd)/.setup
mkdir -p "$state"

# shellcheck source=setup/lib.sh
source "$here/setup/lib.sh"
# shellcheck source=setup/packages.sh
source "$here/setup/packages.sh"
# shellcheck source=setup/engine.sh
source "$here/setup/engine.sh"
# shellcheck source=setup/flights.sh
source "$here/setup/flights.sh"
# shellcheck source=setup/kafka.sh
source "$here/setup/kafka.sh"
# shellcheck source=setup/deployments.sh
source "$here/setup/deployments.sh"
# shellcheck source=setup/deb.sh
source "$here/setup/deb.sh"
# shellcheck source=setup/panels.sh
source "$here/setup/panels.sh"
# shellcheck source=setup/s3.sh
source "$here/setup/s3.sh"

for_tests=no with_kafka=no with_mirror=no with_deb=no
for argument in "$@"; do
    case $argument in
        --tests) for_tests=yes with_kafka=yes ;;
        --kafka) with_kafka=yes ;;
        --mirror) with_kafka=yes with_mirror=yes ;;
        --deb) with_deb=yes ;;
        *) fail "\`$argument\` is not --tests, --kafka, --mirror or --deb" ;;
    esac
done
if [[ $for_tests == yes && ${KAFKA_TESTS:-on} == off ]]; then
    say "KAFKA_TESTS=off: Kafka is not installed, and the tests that need it are SKIPPED"
    with_kafka=no
fi

# One set-up at a time: `make run` and `make test` may be started together.
exec 9>"$state/lock"
flock 9

require_packages "$for_tests" "$with_kafka"
install_engine
install_flights
[[ $with_kafka == no ]] || install_kafka
[[ $with_mirror == no ]] || install_mirror
[[ $with_deb == no ]] || install_cargo_deb
if [[ $for_tests == yes ]]; then
    install_go_tools
    install_panels
    install_kubernetes_schemas
fi
[[ $for_tests == no ]] || install_s3
