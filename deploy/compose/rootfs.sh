#!/usr/bin/env bash
# rootfs.sh PROGRAM FOLDER: all files of an image that runs PROGRAM, put into FOLDER: the program, the libraries that it loads, authorities for
# TLS, and a user without rights. Called by the Dockerfile; a test runs what it makes.
set -euo pipefail

program=$1 folder=$2
user=65532

mkdir -p "$folder"/{usr/bin,etc/ssl/certs,data}
cp --dereference "$program" "$folder/usr/bin/"

# `name => /path (address)`, and `/path (address)` of the loader. The kernel's own has no path.
ldd "$program" | sed -n 's|^[^/]*\(/[^ ]*\) (0x[0-9a-f]*)$|\1|p' | while read -r library; do
    mkdir -p "$folder$(dirname "$library")"
    cp --dereference "$library" "$folder$library"
done

cp --dereference /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
printf 'tallyhouse:x:%s:%s::/data:/sbin/nologin\n' "$user" "$user" >"$folder/etc/passwd"
printf 'tallyhouse:x:%s:\n' "$user" >"$folder/etc/group"
printf 'hosts: files dns\n' >"$folder/etc/nsswitch.conf"
chmod 700 "$folder/data"
[[ $(id -u) -ne 0 ]] || chown "$user:$user" "$folder/data"
