#!/usr/bin/env bash
# A browser for tests that look at pages, from Debian's packages.
#
#   infra/services/chromium.sh install   as root (some 350 MB)
set -euo pipefail

fail() { echo "chromium.sh: $1" >&2; exit 1; }

install() {
  if command -v chromium >/dev/null; then return; fi
  [ "$(id -u)" = 0 ] || fail "installing chromium needs root: run this as root, or ask for this package"
  command -v apt-get >/dev/null || fail "needs Debian or Ubuntu: install Chromium by hand, as a command \`chromium\`"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
}

case "${1:-}" in
  install) install ;;
  *) fail "say what to do: install" ;;
esac
