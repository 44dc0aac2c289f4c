#!/usr/bin/env bash
# A real S3 server for tests: one Ceph monitor, one OSD in memory and one RADOS gateway, on loopback only; the gateway
# on CEPH_ADDRESS of the environment instead, if it is given.
#
#   infra/services/ceph.sh install            the Debian packages, as root (some 220 MB)
#   infra/services/ceph.sh start DIR [PORT]   prints endpoint, key and secret as lines NAME=value; free ports if none given
#   infra/services/ceph.sh stop DIR           ends what `start` began, and removes DIR
set -euo pipefail

PACKAGES=(ceph-mon ceph-osd radosgw ceph-common)
KEY=testkey
SECRET=testsecret123
ADDRESS=${CEPH_ADDRESS:-127.0.0.1}
START_TIMEOUT_S=90

fail() { echo "ceph.sh: $1" >&2; exit 1; }
have() { local name; for name; do command -v "$name" >/dev/null || return 1; done; }  # all of them

install() {
  if have radosgw ceph-mon ceph-osd ceph ceph-authtool monmaptool; then return; fi
  [ "$(id -u)" = 0 ] || fail "installing ${PACKAGES[*]} needs root: run this as root, or ask for these packages"
  command -v apt-get >/dev/null || fail "needs Debian or Ubuntu: install a Ceph monitor, OSD and gateway by hand"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null
}

free_ports() {
  python3 - "$1" <<'PY'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
PY
}

configure() {
  local dir=$1 port=$2 monitor=$3
  cat > "$dir/ceph.conf" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = [v2:127.0.0.1:$monitor]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = true
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
osd_objectstore = memstore
memstore_device_bytes = 4294967296
run_dir = $dir
admin_socket = $dir/\$name.asok
log_file = $dir/\$name.log
pid_file = $dir/\$name.pid
mon_data = $dir/mon
osd_data = $dir/osd
keyring = $dir/keyring
rgw_data = $dir/rgw
[client]
rgw_frontends = beast endpoint=$ADDRESS:$port
rgw_dns_name = localhost
rgw_enable_usage_log = false
debug_rgw = 0
CONF
}

keys() {
  local dir=$1
  ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *'
  ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  ceph-authtool "$dir/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
}

background() { # NAME COMMAND…: its process id goes to DIR/NAME.started
  local name=$1
  shift
  setsid "$@" >"$DIR/$name.out" 2>&1 </dev/null &
  echo $! > "$DIR/$name.started"
}

wait_for_gateway() {
  local port=$1 deadline=$((SECONDS + START_TIMEOUT_S))
  until (exec 3<>"/dev/tcp/$ADDRESS/$port") 2>/dev/null; do
    [ $SECONDS -lt $deadline ] || fail "the gateway did not start in $START_TIMEOUT_S s: see $DIR/gateway.out"
    sleep 0.2
  done
}

start() {
  local monitor other
  DIR=$1
  [ ! -e "$DIR" ] || [ -z "$(ls -A "$DIR")" ] || fail "$DIR is not empty"
  mkdir -p "$DIR/mon" "$DIR/osd"
  DIR=$(cd "$DIR" && pwd)
  trap 'tail -n 5 "$DIR"/*.out >&2; stop "$DIR"' ERR
  read -r other monitor <<<"$(free_ports 2)"
  local port=${2:-$other}
  configure "$DIR" "$port" "$monitor"
  export CEPH_CONF=$DIR/ceph.conf
  keys "$DIR" >/dev/null
  local fsid
  fsid=$(sed -n 's/^fsid = //p' "$DIR/ceph.conf")
  monmaptool --create --addv a "[v2:127.0.0.1:$monitor]" --fsid "$fsid" "$DIR/monmap" >/dev/null
  ceph-mon --mkfs -i a --monmap "$DIR/monmap" --keyring "$DIR/keyring"
  background monitor ceph-mon -i a -f
  local osd
  osd=$(cat /proc/sys/kernel/random/uuid)
  ceph --connect-timeout "$START_TIMEOUT_S" osd create "$osd" 0 >/dev/null 2>&1
  ceph-osd -i 0 --mkfs --osd-uuid "$osd" >"$DIR/osd-mkfs.out" 2>&1
  background osd ceph-osd -i 0 -f
  background gateway radosgw -n client.admin -f
  radosgw-admin user create --uid test --display-name test --access-key "$KEY" --secret "$SECRET" \
    >"$DIR/user.json" 2>"$DIR/user.out"
  wait_for_gateway "$port"
  printf 'AWS_ENDPOINT_URL=http://%s\nAWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n' "$ADDRESS:$port" "$KEY" "$SECRET"
}

stop() {
  local dir=$1 file pid
  for file in "$dir"/gateway.started "$dir"/osd.started "$dir"/monitor.started; do
    [ -e "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
  done
  rm -rf "$dir"
}

case "${1:-}" in
  install) install ;;
  start) [ $# -ge 2 ] || fail "start DIR [PORT]"; start "$2" "${3:-}" ;;
  stop) [ $# -eq 2 ] || fail "stop DIR"; stop "$2" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
