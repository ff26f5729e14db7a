#!/bin/sh
# Liveness: it answers, whatever it says (LOADING is an answer).
set -eu
. "${CONFIG:-/etc/redis/config}/common.sh"
[ -n "$(ask_here PING)" ]
