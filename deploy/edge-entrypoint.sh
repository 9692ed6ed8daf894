#!/bin/sh
# What the edge's container runs: shape the link, give up being root, and become the program that was asked for.
set -eu

here=$(dirname "$0")
"$here/shape-link.sh"
[ "$#" -gt 0 ] || set -- edge_api.py
cd "$here/.."
if [ "$(id -u)" -ne 0 ]; then
    exec python "$@"
fi
# Root was for tc only. The program cannot change the link again, whatever it is sent.
exec setpriv --reuid=10001 --regid=10001 --clear-groups --inh-caps=-all --no-new-privs python "$@"
