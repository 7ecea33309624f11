"""What the arguments of requests may be; what texts of any kind come to is in `policy/test_injection.py`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest

from bgpmesh.control import arguments
from bgpmesh.control.server import RequestError
from bgpmesh.errors import ConfigError
from bgpmesh.workload.floating import FloatingIp


def refusal(door: Callable[[], object]) -> str:
    """Return the key and the reason of what is refused."""
    with pytest.raises(ConfigError) as caught:
        door()
    (problem,) = caught.value.problems
    return f"{problem.key}: {problem.reason}"


@pytest.mark.parametrize(
    ("door", "said"),
    [
        (lambda: arguments.text_of({"file": 7}, "file"), "file: not a text"),
        (lambda: arguments.text_of({"file": "a\0b"}, "file"), "file: not a text"),
        (lambda: arguments.text_of({"file": "\ud800"}, "file"), "file: not a text"),
        (lambda: arguments.texts_of({"ip": "10.0.0.1"}, "ip"), "ip: not a list of texts"),
        (lambda: arguments.texts_of({"ip": ["10.0.0.1", None]}, "ip"), "ip: not a list of texts"),
        (lambda: arguments.address("fe80::1%eth0"), "ip: not an IP address (without prefix length or zone)"),
        (lambda: arguments.address("10.0.0.0/8", "external"), "external: not an IP address"),
        (lambda: arguments.labels(["app"]), "label: not KEY=VALUE"),
        (lambda: arguments.labels(["app=a", "app=b"]), "label: app is a already"),
        (lambda: arguments.labels(["pcns.x=y"]), "label: pcns.x is not given by hand"),
        (lambda: arguments.ports(["web=tcp:0"]), "port: not NAME=PROTOCOL:NUMBER"),
        (lambda: arguments.ports(["web=icmp:8"]), "port: 'icmp' is not one of"),
        (lambda: arguments.ports(["web=tcp:80", "web=tcp:81"]), "port: web is 80 already"),
        (lambda: arguments.floating_ip_of({"external": "192.0.2.9", "workload": "web", "outbound": 1}), "outbound: "),
        (lambda: arguments.floating_ip_of({"workload": "web"}), "external: not an IP address"),
        (lambda: arguments.key_of({"name": "a/b"}), "name: "),
    ],
)
def test_what_is_none_is_refused_by_its_name(door: Callable[[], object], said: str) -> None:
    """One problem, of the argument that it is about."""
    assert refusal(door).startswith(said)


def test_what_is_there_is_taken_as_it_is_meant() -> None:
    """Sorted where the order says nothing; said twice is said once."""
    assert arguments.key_of({"name": "web"}) == "default/web"
    assert arguments.labels(["b=2", "a=1", "b=2"]) == (("a", "1"), ("b", "2"))
    assert arguments.ports(["web=tcp:80", "dns=udp:53", "web=udp:80"]) == (
        ("dns", "udp", 53),
        ("web", "tcp", 80),
        ("web", "udp", 80),
    )
    external = ipaddress.ip_address("192.0.2.9")
    for words in ({"workload": "shop/web"}, {"workload": "web", "namespace": "shop"}):
        assert arguments.floating_ip_of({"external": "192.0.2.9", **words}) == FloatingIp(external, "shop/web")
    assert arguments.documents_of({"documents": [{}]}) == [{}]
    with pytest.raises(RequestError):
        arguments.documents_of({"documents": {}})
