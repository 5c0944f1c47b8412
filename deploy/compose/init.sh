#!/usr/bin/env bash
# Makes .env of .env.example, with random secrets. Of an existing .env nothing is changed; a secret that it has not, which a newer version asks for, is added.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

target=${1:-.env}
umask 077

secret() {
    head -c 16 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

add_missing() {
    local line name
    while IFS= read -r line; do
        name=${line%%=*}
        if [[ $line != *=generate ]] || grep -q "^$name=" "$target"; then
            continue
        fi
        # The last line may have no end.
        if [[ -n $(tail -c 1 "$target") ]]; then echo >>"$target"; fi
        printf '%s=%s\n' "$name" "$(secret)" >>"$target"
        echo "init: $name is added to $target" >&2
    done <.env.example
}

if [[ -e $target ]]; then
    add_missing
    exit 0
fi
while IFS= read -r line; do
    if [[ $line == *=generate ]]; then
        line="${line%generate}$(secret)"
    fi
    printf '%s\n' "$line"
done <.env.example >"$target.new"
mv "$target.new" "$target"
echo "init: $target is made" >&2
