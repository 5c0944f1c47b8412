#!/usr/bin/env bash
# Puts in place what building, running and testing need. Each step says what it does, leaves a marker of what it was made
# from in .setup/, and is skipped as long as the marker fits; so a second run takes a moment and needs no network.
#
#   setup.sh [--tests]      --tests: also what only the tests need (Redis)
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

for_tests=no
[[ "${1:-}" == --tests ]] && for_tests=yes

# One set-up at a time: `make run` and `make test` may be started together.
exec 9>"$state/lock"
flock 9

require_packages "$for_tests"
install_engine
install_flights
