#!/usr/bin/env bash
# What makes machines of namespaces on this one, for tests, from Debian's packages.
#
#   infra/services/network.sh install   as root (some 3 MB)
set -euo pipefail

fail() { echo "network.sh: $1" >&2; exit 1; }
have() { local name; for name; do command -v "$name" >/dev/null || return 1; done; }  # all of them

install() {
  if have ip unshare nsenter setpriv mount hostname; then return; fi
  [ "$(id -u)" = 0 ] || fail "installing iproute2 needs root: run this as root, or ask for this package"
  command -v apt-get >/dev/null || fail "needs Debian or Ubuntu: install iproute2, util-linux, mount and hostname by hand"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iproute2 util-linux mount hostname \
    >/dev/null
}

case "${1:-}" in
  install) install ;;
  *) fail "say what to do: install" ;;
esac
