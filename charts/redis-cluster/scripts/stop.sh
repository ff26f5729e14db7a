#!/bin/sh
# Before a node ends: a master hands over to a replica in step, so that no acknowledged write is lost and nobody waits for a failover.
set -eu
. "${CONFIG:-/etc/redis/config}/common.sh"
replication="$(ask_here INFO replication)"
[ "$(echo "$replication" | field role)" = master ] || exit 0
replica="$(echo "$replication" | tr -d '\r' | sed -n 's/^slave[0-9]*:ip=\([^,]*\),port=\([0-9]*\),state=online.*/\1 \2/p' | head -n 1)"
[ -n "$replica" ] || exit 0
ask admin "$(secret admin-password password)" "${replica% *}" "${replica#* }" CLUSTER FAILOVER
tries=0
while [ "$(ask_here INFO replication | field role)" = master ] && [ "$tries" -lt 40 ]; do
  tries=$((tries + 1))
  sleep 0.5
done
