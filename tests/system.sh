#!/bin/sh
# Installs the programs that the tests run beside pushd, where it may, or says
# which are missing. A name is a command and the Debian package that has it.
set -eu

# Debian has servers in sbin, which is not everybody's.
PATH="$PATH:/usr/sbin:/sbin"

missing=""
for pair in curl:curl node:nodejs chromium:chromium chromedriver:chromium-driver nats-server:nats-server systemd-analyze:systemd nginx:nginx-light haproxy:haproxy redis-server:redis-server; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "The tests need these programs (by their Debian packages):$missing" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "The tests need more programs: sudo apt-get install$missing" >&2
        exit 1
    fi
    as_root="sudo -n"
fi
echo "pushd: installing$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086  # one word a package
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null

# Debian starts servers when it installs them; the tests start their own.
if [ -d /run/systemd/system ]; then
    for service in nginx haproxy redis-server; do
        case "$missing" in
            *" $service"*) $as_root systemctl disable --quiet --now "$service" ;;
        esac
    done
fi
