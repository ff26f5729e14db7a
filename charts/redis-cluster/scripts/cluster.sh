#!/bin/sh
# shellcheck disable=SC2153 # NODES is set by the Job
# Makes the cluster what the values say. May be run at any time, any number of times: it looks first, and does what is missing.
#   cluster.sh grow     after an install or upgrade: joins nodes, gives slots, makes replicas, forgets nodes that are gone
#   cluster.sh shrink   before an upgrade: empties nodes that the upgrade will take away
set -eu
. "${CONFIG:-/etc/redis/config}/common.sh"

admin="$(secret admin-password password)"
deadline=$(($(date +%s) + TIMEOUT))

in_time() { [ "$(date +%s)" -lt "$deadline" ] || die "$1 (gave up after $TIMEOUT s)"; }

# node N COMMAND…
node() { to="$1"; shift; ask "$CERTS" admin "$admin" "$(address_of "$to")" "$(port_of "$to")" "$@"; }

cli_cluster() {
  operation="$1"; shift
  # shellcheck disable=SC2046 # options are words
  REDISCLI_AUTH="$admin" redis-cli --no-auth-warning --user admin $(tls_options "$CERTS") --cluster "$operation" "$(address_of 0):$(port_of 0)" "$@"
}

id_of() { node "$1" CLUSTER MYID; }

# Lines of CLUSTER NODES, as node 0 sees them: id address flags master … slots
view() { node 0 CLUSTER NODES | tr -d '\r'; }
flags_of() { view | awk -v id="$1" '$1 == id { print $3 }'; }

wait_for_nodes() {
  i=0
  while [ "$i" -lt "$1" ]; do
    until [ -n "$(address_of "$i")" ] && [ "$(node "$i" PING 2>/dev/null)" = PONG ]; do
      in_time "node $i does not answer"
      sleep 1
    done
    i=$((i + 1))
  done
}

# Until all nodes agree about who has which slot, and nothing is on its way.
settle() {
  until cli_cluster check >"$RUN/check" 2>&1; do
    in_time "the cluster does not settle: $(tail -n 3 "$RUN/check")"
    sleep 1
  done
}

meet() {
  i=1
  while [ "$i" -lt "$1" ]; do
    until [ -n "$(flags_of "$(id_of "$i")")" ]; do
      in_time "node $i does not join"
      say "node $i joins"
      node 0 CLUSTER MEET "$(address_of "$i")" "$(port_of "$i")" >/dev/null
      sleep 1
    done
    i=$((i + 1))
  done
}

# Until node 0 has heard from every node what it has.
hear() {
  i=0
  while [ "$i" -lt "$1" ]; do
    own="$(node "$i" CLUSTER NODES | tr -d '\r' | awk '$3 ~ /myself/ { print $1, (NF > 8) }')"
    until view | awk '{ print $1, (NF > 8) }' | grep -qxF "$own"; do in_time "node 0 does not hear from node $i"; sleep 1; done
    i=$((i + 1))
  done
}

# Numbers below the given one whose node is: holder (has slots), empty (a master without), replica.
which() {
  nodes="$(view)"
  i=0
  while [ "$i" -lt "$2" ]; do
    echo "$nodes" | awk -v id="$(id_of "$i")" -v want="$1" -v number="$i" '$1 == id {
      kind = $3 ~ /slave/ ? "replica" : (NF > 8 ? "holder" : "empty"); if (kind == want) print number }'
    i=$((i + 1))
  done
}
count() { echo "$1" | grep -c . || true; }

# The masters' numbers, those with the fewest replicas first.
hosts_by_replicas() {
  nodes="$(view)"
  for number in $1; do
    id="$(id_of "$number")"
    echo "$(echo "$nodes" | awk -v id="$id" '$3 ~ /slave/ && $4 == id' | grep -c . || true) $number"
  done | sort -n | cut -d ' ' -f 2
}

first_slots() {
  i=0
  while [ "$i" -lt "$SHARDS" ]; do
    node "$i" CLUSTER ADDSLOTSRANGE $((16384 * i / SHARDS)) $((16384 * (i + 1) / SHARDS - 1)) >/dev/null
    # Different epochs from the start; refused where a node has one, which is as good.
    node "$i" CLUSTER SET-CONFIG-EPOCH $((i + 1)) >/dev/null 2>&1 || true
    i=$((i + 1))
  done
  say "slots are shared among $SHARDS masters"
}

grow() {
  wait_for_nodes "$NODES"
  i=0; assigned=0
  while [ "$i" -lt "$NODES" ]; do
    # Of any node's knowledge: slots of a cluster that is only partly there must not be given again.
    seen="$(node "$i" CLUSTER INFO | field cluster_slots_assigned)"
    [ "$seen" -le "$assigned" ] || assigned="$seen"
    i=$((i + 1))
  done
  [ "$assigned" -gt 0 ] || first_slots
  meet "$NODES"
  hear "$NODES"

  holders="$(which holder "$NODES")"
  empty="$(which empty "$NODES")"
  wanted=$((SHARDS - $(count "$holders")))
  masters="$holders"
  for number in $empty; do
    if [ "$wanted" -gt 0 ]; then
      say "node $number becomes a master"
      masters="$masters $number"
      wanted=$((wanted - 1))
    else
      until node "$number" CLUSTER REPLICATE "$(id_of "$(hosts_by_replicas "$masters" | head -n 1)")" | grep -qx OK; do
        in_time "node $number does not become a replica"
        sleep 1
      done
      say "node $number becomes a replica"
      sleep 2
    fi
  done
  forget
  settle
  if [ "$(count "$holders")" -lt "$SHARDS" ] && [ -n "$holders" ]; then
    say "slots move to the new masters"
    cli_cluster rebalance --cluster-use-empty-masters --cluster-yes >"$RUN/rebalance" 2>&1 || die "$(tail -n 5 "$RUN/rebalance")"
    settle
  fi
  until [ "$(node 0 CLUSTER INFO | field cluster_state)" = ok ]; do in_time "the cluster is not ok"; sleep 1; done
  say "the cluster is ok: $SHARDS masters, $((NODES - SHARDS)) replicas"
}

# Nodes that are none of ours any more, and hold nothing.
forget() {
  ours=""
  i=0
  while [ "$i" -lt "$NODES" ]; do ours="$ours $(id_of "$i")"; i=$((i + 1)); done
  view | awk 'NF <= 8 && $3 !~ /handshake/ { print $1 }' | while read -r id; do
    case " $ours " in *" $id "*) continue ;; esac
    say "forgetting $id"
    i=0
    while [ "$i" -lt "$NODES" ]; do node "$i" CLUSTER FORGET "$id" >/dev/null 2>&1 || true; i=$((i + 1)); done
  done
}

shrink() {
  [ -n "$(address_of 0)" ] || { say "there is no cluster yet"; return; }
  before="$NODES"
  while [ -n "$(address_of "$before")" ]; do before=$((before + 1)); done
  [ "$before" -gt "$NODES" ] || { say "no node goes"; return; }
  wait_for_nodes "$before"
  settle

  # A master that goes and has a replica that stays hands over to it.
  for number in $(which holder "$before"); do
    [ "$number" -ge "$NODES" ] || continue
    id="$(id_of "$number")"
    for heir in $(which replica "$NODES"); do
      view | awk -v a="$(id_of "$heir")" -v b="$id" '$1 == a && $4 == b' | grep -q . || continue
      say "node $number hands over to node $heir"
      node "$heir" CLUSTER FAILOVER >/dev/null
      until [ "$(node "$heir" INFO replication | field role)" = master ]; do in_time "node $heir does not take over"; sleep 1; done
      break
    done
  done
  settle

  # Masters that are too many, those that go first, give their slots away.
  holders="$(which holder "$before" | sort -rn)"
  surplus=$(($(count "$holders") - SHARDS))
  weights=""
  for number in $holders; do
    if [ "$number" -ge "$NODES" ] || [ "$surplus" -gt 0 ]; then
      weights="$weights --cluster-weight $(id_of "$number")=0"
      surplus=$((surplus - 1))
      say "node $number gives its slots away"
    fi
  done
  if [ -n "$weights" ]; then
    # shellcheck disable=SC2086 # options are words
    cli_cluster rebalance $weights --cluster-yes >"$RUN/rebalance" 2>&1 || die "$(tail -n 5 "$RUN/rebalance")"
    settle
  fi
  left="$(which holder "$NODES")"
  [ "$(count "$left")" -ge "$SHARDS" ] || say "only $(count "$left") masters stay: the rest is made after the upgrade"
  say "nodes $NODES to $((before - 1)) hold nothing any more"
}

case "${1:-}" in
  grow | shrink) "$1" ;;
  *) die "usage: cluster.sh grow|shrink" ;;
esac
