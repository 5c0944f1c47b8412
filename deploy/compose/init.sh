#!/usr/bin/env bash
# Makes .env of .env.example, with random secrets. An existing .env is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

target=${1:-.env}
if [[ -e $target ]]; then
    echo "init: $target is there already, and was left alone" >&2
    exit 0
fi
umask 077
while IFS= read -r line; do
    if [[ $line == *=generate ]]; then
        line="${line%generate}$(head -c 16 /dev/urandom | od -An -v -tx1 | tr -d ' \n')"
    fi
    printf '%s\n' "$line"
done <.env.example >"$target.new"
mv "$target.new" "$target"
echo "init: $target is made" >&2
