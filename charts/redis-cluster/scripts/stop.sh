#!/bin/sh
# Before a node ends: a master hands over to a replica in step, so that no acknowledged write is lost and nobody waits for a failover.
set -eu
. "${CONFIG:-/etc/redis/config}/common.sh"

replication="$(ask_here INFO replication)"
is_master() { [ "$(ask_here INFO replication | field role)" = master ]; }
is_master || exit 0
replica="$(echo "$replication" | tr -d '\r' | sed -n 's/^slave[0-9]*:ip=\([^,]*\),port=\([0-9]*\),state=online.*/\1 \2/p' | head -n 1)"
[ -n "$replica" ] || { say "there is no replica in step: the cluster decides"; exit 0; }
tries=0
while is_master && [ "$tries" -lt 40 ]; do
  # A failover that finds no majority in time is given up by Redis after 5 s.
  if [ $((tries % 10)) -eq 0 ]; then
    ask "$CERTS" admin "$(secret admin-password password)" "${replica% *}" "${replica#* }" CLUSTER FAILOVER >&2 || true
  fi
  tries=$((tries + 1))
  sleep 1
done
