#!/bin/sh
# Slow down what this network namespace sends, or end with code 1 and a line that says why: a run on a link that was
# meant to be slow and is not would give figures that look right.
#   LINK_RATE    as tc writes it, such as 5mbit; without it nothing is done
#   LINK_DELAY   added to every packet that is sent, such as 20ms (needs the kernel's netem)
#   LINK_DEVICE  eth0, unless told otherwise
# Only sending is shaped, as an edge's upload; the answers that come back are small.
set -eu

fail() {
    echo "shape-link: $1" >&2
    exit 1
}

device=${LINK_DEVICE:-eth0}
if [ -z "${LINK_RATE:-}" ]; then
    [ -z "${LINK_DELAY:-}" ] || fail "LINK_DELAY goes with LINK_RATE"
    exit 0
fi
case $LINK_RATE in
    *bit | *bps) ;;
    *) fail "LINK_RATE is '$LINK_RATE': give a number and a unit, such as 5mbit" ;;
esac
[ "$device" != lo ] || fail "LINK_DEVICE is lo: shape the device that leads to the cloud"
command -v tc >/dev/null || fail "tc is missing: install iproute2"
[ -e "/sys/class/net/$device" ] || fail "there is no network device $device: name it with LINK_DEVICE"

if [ -n "${LINK_DELAY:-}" ]; then
    tc qdisc replace dev "$device" root handle 1: netem delay "$LINK_DELAY" \
        || fail "tc cannot delay $device: the kernel needs netem, and this container NET_ADMIN"
    set -- parent 1:1 handle 10:
else
    set -- root handle 1:
fi
tc qdisc replace dev "$device" "$@" tbf rate "$LINK_RATE" burst 16kb latency 400ms \
    || fail "tc cannot shape $device to '$LINK_RATE': is it a rate, and does this container have NET_ADMIN?"
tc qdisc show dev "$device" | grep -q '^qdisc tbf ' || fail "tc said nothing, but $device is not shaped"
echo "shape-link: $device sends at most $LINK_RATE${LINK_DELAY:+, after $LINK_DELAY}" >&2
