# shellcheck shell=sh
# For the other scripts. Set by the pod: NAME, HEADLESS, PORT, PORT_STEP, TLS_ENABLED; of the Jobs: NODES, SHARDS, TIMEOUT.
# shellcheck disable=SC2153

CONFIG="${CONFIG:-/etc/redis/config}"
AUTH="${AUTH:-/etc/redis/auth}"
CERTS="${CERTS:-/etc/redis/tls}"
RUN="${RUN:-/run/redis}"
DATA="${DATA:-/data}"

say() { echo "$*" >&2; }
die() { say "error: $*"; exit 1; }

# A password of the mounted Secret; the first of the given that is there. Secrets made by hand often end in a line end.
secret() {
  for name in "$@"; do
    if [ -s "$AUTH/$name" ]; then tr -d '\r\n' < "$AUTH/$name"; return; fi
  done
  die "the Secret has no $1: add it"
}

sha256() { sha256sum | cut -d ' ' -f 1; }

port_of() { echo $((PORT + $1 * PORT_STEP)); }

# The address of a node's pod, or nothing. DNS knows pods that are not ready, too.
address_of() { getent hosts "$NAME-$1.$HEADLESS" | while read -r address _; do echo "$address"; break; done; }

# tls_options DIRECTORY
tls_options() {
  [ "$TLS_ENABLED" = true ] || return 0
  echo "--tls --cacert $1/ca.crt --cert $1/tls.crt --key $1/tls.key"
}

# ask CERTIFICATES USER PASSWORD HOST PORT COMMAND…: passwords in the environment only. For no longer than ASK_SECONDS, where that is set: an
# address that is gone does not even refuse.
ask() {
  certificates="$1"; user="$2"; password="$3"; host="$4"; port="$5"; shift 5
  # shellcheck disable=SC2046 # options are words
  REDISCLI_AUTH="$password" ${ASK_SECONDS:+timeout "$ASK_SECONDS"} redis-cli --no-auth-warning --user "$user" -h "$host" -p "$port" $(tls_options "$certificates") "$@"
}

# To the node of this pod, with what is in effect in it, whatever the Secrets say by now.
ask_here() { ask "$RUN/tls" keeper "$(cat "$RUN/keeper")" 127.0.0.1 "$(port_of "${POD_NAME##*-}")" "$@"; }

# Copies the mounted certificates.
copy_certificates() {
  [ "$TLS_ENABLED" = true ] || return 0
  rm -rf "$1"
  mkdir "$1"
  cp "$CERTS/ca.crt" "$CERTS/tls.crt" "$CERTS/tls.key" "$1"
}

# A field of INFO or CLUSTER INFO.
field() { tr -d '\r' | sed -n "s/^$1://p"; }

# The ACL file: users that have a password, by its hash. Rights are made of acl.yaml.
write_users() {
  echo "user keeper on #$(sha256 < "$RUN/keeper") ~* &* +@all"
  echo "user admin on #$(secret admin-password password | sha256) ~* &* +@all"
  for user in default edge central exporter; do
    case "$user" in
      default) file=password ;;
      *) file="$user-password" ;;
    esac
    if [ -s "$AUTH/$file" ]; then
      echo "user $user on #$(secret "$file" | sha256) resetchannels $(sed -n "s/^$user //p" "$CONFIG/acl.rules")"
    elif [ "$user" = default ]; then
      # Nobody gets in as it. Its rights are for Redis itself, which reads its append-only file as this user: without them, what scripts
      # wrote is left out, or ends the server (github.com/redis/redis/issues/14541).
      echo "user default off resetpass ~* &* +@all"
    fi
  done
}

# What is reread when it changes.
fingerprint() { cat "$AUTH"/* "$CERTS"/* 2>/dev/null | sha256; }
