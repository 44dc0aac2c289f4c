#!/usr/bin/env bash
# A real PostgreSQL for tests, on loopback only.
#
#   infra/services/postgres.sh install            the Debian package, as root (some 60 MB)
#   infra/services/postgres.sh start DIR [PORT]   prints DATABASE_URL=…; a free port if none is given
#   infra/services/postgres.sh stop DIR           ends what `start` began, and removes DIR
set -euo pipefail

START_TIMEOUT_S=60

fail() { echo "postgres.sh: $1" >&2; exit 1; }

programs() { # Debian keeps them out of PATH
  local found
  found=$(find /usr/lib/postgresql -maxdepth 3 -name initdb 2>/dev/null | sort -V | tail -n 1)
  if [ -n "$found" ]; then dirname "$found"; else dirname "$(command -v initdb || echo /none)"; fi
}

install() {
  if [ -x "$(programs)/initdb" ]; then return; fi
  [ "$(id -u)" = 0 ] || fail "installing postgresql needs root: run this as root, or ask for this package"
  command -v apt-get >/dev/null || fail "needs Debian or Ubuntu: install PostgreSQL by hand, with initdb in PATH"
  apt-get update -qq
  # The cluster that the package would start by itself is not wanted.
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] ||
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

as_postgres() { # PostgreSQL refuses to run as root
  if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --init-groups "$@"; else "$@"; fi
}

start() {
  local dir=$1 port=${2:-$(free_port)} bin data password
  bin=$(programs)
  [ -x "$bin/initdb" ] || fail "PostgreSQL is not installed: \`infra/services/postgres.sh install\` as root"
  [ ! -e "$dir" ] || [ -z "$(ls -A "$dir")" ] || fail "$dir is not empty"
  mkdir -p "$dir"
  # DIR may be in a folder that the user postgres cannot enter.
  data=$(mktemp -d /tmp/ramfleet-postgres-XXXXXXXX)
  echo "$data" > "$dir/data"
  trap 'tail -n 5 "$data/log" >&2; stop "$dir"' ERR
  password=$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')
  echo "$password" > "$data/password"
  if [ "$(id -u)" = 0 ]; then chown -R postgres: "$data"; fi
  cd "$data"
  as_postgres "$bin/initdb" -D "$data/db" -U postgres -A scram-sha-256 --pwfile "$data/password" \
    -E UTF8 --locale C >"$data/initdb.log"
  cat >> "$data/db/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
fsync = off
max_connections = 20
CONF
  as_postgres "$bin/pg_ctl" -D "$data/db" -l "$data/log" -w -t "$START_TIMEOUT_S" start >/dev/null </dev/null
  printf 'DATABASE_URL=postgresql://postgres:%s@127.0.0.1:%s/postgres\n' "$password" "$port"
}

stop() {
  local dir=$1 data
  [ -e "$dir/data" ] || { rm -rf "$dir"; return; }
  data=$(cat "$dir/data")
  if [ -e "$data/db/postmaster.pid" ]; then
    cd "$data"
    as_postgres "$(programs)/pg_ctl" -D "$data/db" -m immediate -w stop >/dev/null || true
  fi
  rm -rf "$data" "$dir"
}

case "${1:-}" in
  install) install ;;
  start) [ $# -ge 2 ] || fail "start DIR [PORT]"; start "$2" "${3:-}" ;;
  stop) [ $# -eq 2 ] || fail "stop DIR"; stop "$2" ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
