#!/bin/sh
# Before a node ends: a master hands over to a replica in step, so that no acknowledged write is lost and nobody waits for a failover.
set -eu
. "${CONFIG:-/etc/redis/config}/common.sh"

# Well within the pod's grace period, so that the node itself still has time to end.
deadline=$(($(date +%s) + 40))
tries=0
while replication="$(ask_here INFO replication | tr -d '\r')" && [ "$(echo "$replication" | field role)" = master ] && [ "$(date +%s)" -lt "$deadline" ]; do
  # A failover that finds no majority in time is given up by Redis after 5 s.
  if [ $((tries % 10)) -eq 0 ]; then
    # Asked again each time: where all nodes end at once, the replica may have gone first.
    replica="$(echo "$replication" | sed -n 's/^slave[0-9]*:ip=\([^,]*\),port=\([0-9]*\),state=online.*/\1 \2/p' | head -n 1)"
    [ -n "$replica" ] || { say "there is no replica in step: the cluster decides"; exit 0; }
    ASK_SECONDS=5
    ask "$CERTS" admin "$(secret admin-password password)" "${replica% *}" "${replica#* }" CLUSTER FAILOVER >&2 || true
    unset ASK_SECONDS
  fi
  tries=$((tries + 1))
  sleep 1
done
