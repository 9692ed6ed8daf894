"""Addresses in every form that people write, and what a server makes of them on a real system."""

import argparse
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud import edge_api
from edgecloud.cli import arguments, flags
from edgecloud.cli.cloud_flags import build_parser as cloud_parser
from edgecloud.edge_api import build_parser as edge_parser
from edgecloud.net.connection import connect
from edgecloud.net.endpoints import dial, listen, name_of
from edgecloud.net.messages import Probe, Probed
from edgecloud.net.penalties import payer_of, source_of
from edgecloud.net.security import check_binding
from edgecloud.net.server import Peer, Server
from edgecloud.utils.addresses import Place, ip_of, is_loopback, parse, parse_several, show
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import ConnectError, UsageError
from tests import certificates
from tests.conftest import LONG_S, ROOT, run_script
from tests.serving import running

PORTS = st.integers(0, 65535)
LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_中", min_size=1, max_size=12).filter(lambda t: t[0] != "-")
NAMES = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
INTERFACES = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=15)
IPV6 = st.integers(1 << 48, (1 << 128) - 1).map(ipaddress.IPv6Address)
IPV4 = st.ip_addresses(v=4)


def test_what_a_text_means() -> None:
    for text, place in {
        "192.168.1.20": Place("192.168.1.20"),
        "192.168.1.20:9999": Place("192.168.1.20", 9999),
        " cloud.example:1 ": Place("cloud.example", 1),
        "localhost": Place("localhost"),
        "::": Place("::"),
        "::1": Place("::1"),
        "[::1]": Place("::1"),
        "[::1]:9999": Place("::1", 9999),
        "::1:9999": Place("::1:9999"),  # an address as it stands
        "fe80::1%eth0": Place("fe80::1%eth0"),
        "[fe80::1%eth0]:80": Place("fe80::1%eth0", 80),
        "::ffff:127.0.0.1": Place("127.0.0.1"),
        "[::FFFF:0.0.0.0]:0": Place("0.0.0.0", 0),
    }.items():
        assert parse(text) == place, text


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ":", ":9999", "host:", "host:x", "host:-1", "host:65536", "host:9 9", "host:１", "a b", "a/b", "-x"),
        *("http://host:9999", "user@host", "host:1:2", "[::1", "::1]", "[::1]9", "[::1]:", "[]:1", "[host]:1", "a%b"),
        *("[127.0.0.1]:1", "fe80::1%", "fe80::1%a b", "1::2::3", "12345::", "127.0.0.1：9999", "host\n", "a,b", "*:1/"),
    ],
)
def test_what_is_no_address_is_refused_in_one_line_that_shows_it(text: str) -> None:
    if text == "host\n":  # a line's end is no part of a text that a file or a shell gives
        assert parse(text) == Place("host")
        return
    with pytest.raises(UsageError) as found:
        parse(text)
    assert len(str(found.value).splitlines()) == 1
    assert repr(text)[1:-1] in str(found.value)


@given(st.one_of(NAMES, IPV4.map(str), IPV6.map(str)), st.one_of(st.none(), PORTS))
def test_what_is_shown_is_read_again(host: str, port: int | None) -> None:
    text = host if port is None else show(host, port)
    assert parse(text) == Place(host, port)


@given(IPV6, INTERFACES, PORTS)
def test_an_interface_goes_with_its_address(ip: ipaddress.IPv6Address, interface: str, port: int) -> None:
    host = f"{ip}%{interface}"
    assert parse(host) == Place(host)
    assert parse(show(host, port)) == Place(host, port)
    assert ip_of(host) == ip


@given(IPV4, PORTS)
def test_an_ipv4_address_written_as_ipv6_is_the_ipv4_address(ip: ipaddress.IPv4Address, port: int) -> None:
    mapped = f"::ffff:{ip}"
    assert parse(mapped) == Place(str(ip))
    assert parse(f"[{mapped}]:{port}") == Place(str(ip), port)
    assert is_loopback(mapped) == ip.is_loopback
    assert payer_of(mapped) == payer_of(str(ip))
    for spares in (True, False):
        assert source_of(mapped, spares_loopback=spares) == source_of(str(ip), spares_loopback=spares)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        place = parse(text)
    except UsageError:
        return
    assert place.host
    assert not set(place.host) & set(" []/\n\t")
    assert parse(show(place.host, 1)) == Place(place.host, 1)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("host", [Place("host")]),
        ("a,b:80", [Place("a"), Place("b", 80)]),
        (" a , [::1]:9 ,::2", [Place("a"), Place("::1", 9), Place("::2")]),
        ("a:1,a:2", [Place("a", 1), Place("a", 2)]),
    ],
)
def test_a_list_names_several(text: str, places: list[Place]) -> None:
    assert parse_several(text) == tuple(places)


@pytest.mark.parametrize(
    "text", ["a,", ",a", "a,,b", ",", "a, ,b", "a,a", "a:1,b,a:1", "a b,c", ",".join("abcdefghijklmnopq")]
)
def test_what_is_no_list_of_addresses_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as found:
        parse_several(text)
    assert len(str(found.value).splitlines()) == 1


# --- the flags


def options_of(parser: Callable[[], argparse.ArgumentParser], *words: str) -> argparse.Namespace:
    return parser().parse_args(["-t", "le_net", *words] if parser is edge_parser else list(words))


def cloud_flags() -> argparse.ArgumentParser:
    return cloud_parser("cloud_api.py", "", 1)


@pytest.mark.parametrize("parser", [edge_parser, cloud_flags])
def test_address_and_port_are_said_together_or_apart(parser: Callable[[], argparse.ArgumentParser]) -> None:
    for words, place in {
        (): ("127.0.0.1", 9999),
        ("-p", "80"): ("127.0.0.1", 80),
        ("-i", "host"): ("host", 9999),
        ("-i", "host:80"): ("host", 80),
        ("-i", "host:80", "-p", "80"): ("host", 80),
        ("-i", "[::1]:80"): ("::1", 80),
        ("-i", "::1", "-p", "80"): ("::1", 80),
        ("-i", "fe80::1%eth0"): ("fe80::1%eth0", 9999),
    }.items():
        assert flags.place_of(options_of(parser, *words)) == place
    with pytest.raises(UsageError, match=r"-i \[::1\]:80 and -p 81 name different ports"):
        flags.place_of(options_of(parser, "-i", "[::1]:80", "-p", "81"))


def test_an_edge_may_be_told_several_clouds() -> None:
    for words, places in {
        ("-i", "a,b"): (("a", 9999), ("b", 9999)),
        ("-i", "a:80,b", "-p", "80"): (("a", 80), ("b", 80)),
        ("-i", "a:80,b,[::1]:81"): (("a", 80), ("b", 9999), ("::1", 81)),
    }.items():
        assert flags.places_of(options_of(edge_parser, *words)) == places
    with pytest.raises(UsageError, match="name different ports"):
        flags.places_of(options_of(edge_parser, "-i", "a:80,b", "-p", "81"))
    with pytest.raises(UsageError, match="names an address twice"):
        flags.places_of(options_of(edge_parser, "-i", "a:9999,a"))
    for parser, text in ((cloud_flags, "a,b"), (edge_parser, "a,b:0")):
        with pytest.raises(SystemExit) as found:
            options_of(parser, "-i", text)
        assert found.value.code == 2


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:80", "localhost"),
        ("[::1]:80", "::1"),
        ("[fe80::1%eth0]:80", "fe80::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_certificate_has_to_bear_the_host_alone(host: str, name: str, tmp_path: Path) -> None:
    ca = certificates.make(tmp_path, "ca").cert
    options = options_of(edge_parser, "-i", host, "--tls-ca", str(ca))
    config = edge_api.build_config(options)
    assert config.cloud.tls is not None
    assert config.cloud.tls.hostname == name


@pytest.mark.parametrize("words", [("-p", "0"), ("-i", "host:0"), ("-i", ""), ("-i", "http://host")])
def test_an_edge_refuses_what_no_cloud_can_have(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options_of(edge_parser, *words)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_cloud_may_let_the_system_choose_its_port() -> None:
    for words in (("-p", "0"), ("-i", "[::1]:0"), ("-i", "127.0.0.1:0", "-p", "0")):
        assert flags.place_of(options_of(cloud_flags, *words))[1] == 0


def test_the_address_of_metrics_has_no_port() -> None:
    assert arguments.host("[::1]") == "::1"
    for text in ("host:1", "[::1]:1"):
        with pytest.raises(argparse.ArgumentTypeError, match="the port has its own flag"):
            arguments.host(text)


# --- what may be open to others without a token


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"])
def test_loopback_in_every_form_needs_no_token(host: str) -> None:
    check_binding(parse(host).host, "", has_tls=False, insecure=False)


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "0", "::ffff:0.0.0.0", "::ffff:192.0.2.1", "fe80::1", "2001:db8::1"])
def test_every_other_address_wants_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="--token-file"):
        check_binding(parse(host).host, "", has_tls=False, insecure=False)


# --- sockets


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def link_local() -> str:
    """An address of this machine that means nothing without its interface, with it; "" where there is none."""
    try:
        rows = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return ""
    for digits, _, _, scope, _, name in (row.split() for row in rows):
        if scope == "20":
            return f"{ipaddress.IPv6Address(int(digits, 16))}%{name}"
    return ""


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
needs_link_local = pytest.mark.skipif(not link_local(), reason="no interface has a link-local address")


def answer_probes(peer: Peer) -> None:
    while True:
        frame = peer.connection.receive(Deadline.after(LONG_S, "a probe"))
        peer.connection.send(Probed(frame.read(Probe).id), Deadline.after(LONG_S, "an answer"))


@contextmanager
def serving(host: str) -> Iterator[tuple[Server, list[Peer]]]:
    """A server in a thread, and who came."""
    peers: list[Peer] = []

    def converse(peer: Peer) -> None:
        peers.append(peer)
        answer_probes(peer)

    server = Server(host, 0, converse)
    with running(server):
        yield server, peers


def probe(host: str, port: int) -> None:
    with closing(connect(host, port, LONG_S)) as connection:
        connection.send(Probe(7, 0), Deadline.after(LONG_S, "sending"))
        assert connection.receive(Deadline.after(LONG_S, "an answer")).read(Probed).id == 7


@ipv6
def test_all_of_ipv6_takes_ipv4_too_and_knows_who_it_is() -> None:
    with serving("::") as (server, peers):
        (place,) = server.addresses
        assert place[0] == "::"
        for host in ("127.0.0.1", "::1", "127.0.0.2"):
            probe(host, place[1])
        assert [peer.payer for peer in peers] == ["loopback"] * 3
        assert peers[0].name.startswith("127.0.0.1:")
        assert peers[1].name.startswith("[::1]:")
        assert not server._door._open  # loopback is spared in every form
    with closing(listen("::1", 0, 5)[0]) as one, pytest.raises(ConnectError, match="refused"):
        dial("127.0.0.1", name_of(one)[1], LONG_S)  # another address of IPv6 does not take IPv4


@needs_link_local
def test_an_address_with_its_interface_serves_on_both_sides() -> None:
    with serving(link_local()) as (server, _):
        host, port = server.addresses[0]
        assert host == link_local()
        probe(host, port)


@ipv6
def test_an_address_without_its_interface_says_what_is_missing() -> None:
    for attempt in (lambda: listen("fe80::1234", 0, 5), lambda: dial("fe80::1234", 9, 5.0)):
        with pytest.raises(ConnectError, match=r"requires its interface, for example fe80::1234%eth0"):
            attempt()
    with pytest.raises(ConnectError, match="no interface 'nope' on this machine"):
        dial("fe80::1%nope", 9, 5.0)


def test_an_ipv4_address_written_as_ipv6_is_listened_on_as_ipv4() -> None:
    with ExitStack() as stack:
        (sock,) = listen("::ffff:127.0.0.1", 0, 5)
        stack.enter_context(sock)
        assert sock.family == socket.AF_INET
        assert name_of(sock)[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=ipv6)])
def test_a_port_in_use_is_said_in_words(host: str) -> None:
    with closing(listen(host, 0, 5)[0]) as taken:
        port = name_of(taken)[1]
        with pytest.raises(ConnectError) as found:
            listen(host, port, 5, "--some-port")
    expected = "the port is in use; choose another with --some-port, or use 0 for a free one"
    assert str(found.value) == f"cannot listen on {show(host, port)}: {expected}"


def test_an_address_of_another_machine_is_said_in_words() -> None:
    with pytest.raises(ConnectError, match=r"cannot listen on 192\.0\.2\.1:0: no such address on this machine"):
        listen("192.0.2.1", 0, 5)


def test_a_relay_whose_port_is_taken_says_so_in_words() -> None:
    with closing(listen("127.0.0.1", 0, 5)[0]) as taken:
        done = run_script("-m", "edgecloud.lab.relay", "--to", "127.0.0.1", "1", "-p", str(name_of(taken)[1]))
    assert (done.code, done.stdout) == (3, "")
    assert "the port is in use" in done.stderr
    assert "(" not in done.stderr


@ipv6
def test_a_cloud_and_an_edge_over_ipv6(cache: Path) -> None:
    """Its first line is read by whoever started it; the edge takes it as it stands."""
    command = [sys.executable, "cloud_api.py", "-i", "[::1]:0", "--cache-dir", str(cache), "--exit-on-stdin-eof"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        place = line.removeprefix("listening on ")
        assert place.startswith("[::1]:")
        health = run_script("cloud_api.py", "--health", place)
        assert health.code == 0
        done = run_script(
            "edge_api.py", "-i", place, "-t", "le_net", "--point", "3", "--verify", "--json", "--cache-dir", str(cache)
        )
        assert done.code == 0, done.stderr
    finally:
        process.communicate(timeout=LONG_S)


BOTH = """
import sys
from edgecloud.net.endpoints import listen, name_of
for _ in range(20):
    socks = listen("both.test", 0, 5)
    names = [name_of(sock) for sock in socks]
    assert {host for host, _ in names} == {"::1", "127.0.0.1"}, names
    assert len({port for _, port in names}) == 1, names
    for sock in socks:
        sock.close()
"""


@ipv6
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, for names of its own")
def test_a_name_of_both_families_is_listened_on_in_both(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 both.test\n::1 both.test\n")
    lines = f"mount --bind {hosts} /etc/hosts && exec {sys.executable} -c '{BOTH}'".replace('"both', '"both')
    done = subprocess.run(["unshare", "-m", "sh", "-c", lines], cwd=ROOT, capture_output=True, text=True)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
