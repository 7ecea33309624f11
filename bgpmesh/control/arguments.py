"""The arguments of requests that change something: taken as they come, and what is none is refused by its name."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TypeGuard

from bgpmesh.control.client import LONGEST_TRIAL_S
from bgpmesh.control.server import RequestError
from bgpmesh.errors import refused
from bgpmesh.policy.chains import WITH_PORTS
from bgpmesh.policy.fields import BadValueError, label_key, label_value, port_name
from bgpmesh.policy.protection import OWN_LABELS
from bgpmesh.policy.rule import NAMESPACE_PREFIX, PROTOCOLS
from bgpmesh.route.nlri import IPAddress
from bgpmesh.workload.endpoint import check_name
from bgpmesh.workload.floating import FloatingIp

Arguments = Mapping[str, object]


def key_of(args: Arguments) -> str:
    """Return `namespace/name` of a request about one workload; raises ConfigError where either is no name."""
    name, namespace = text_of(args, "name") or "", text_of(args, "namespace") or "default"
    check_name("name", name)
    check_name("namespace", namespace)
    return f"{namespace}/{name}"


def text_of(args: Arguments, key: str) -> str | None:
    """Return an argument, None where it is absent; raises ConfigError where it is no text that a file name can be."""
    value = args.get(key)
    if value is None:
        return None
    if not _is_text(value):
        raise refused(key, value, "not a text")
    return value


def texts_of(args: Arguments, key: str) -> list[str]:
    """Return an argument that is several texts, none where it is absent; raises ConfigError where it is not."""
    values = args.get(key) or []
    if not isinstance(values, list) or not all(map(_is_text, values)):
        raise refused(key, values, "not a list of texts")
    return values


def number_of(args: Arguments, key: str, default: float) -> float:
    """Return an argument that is a number of 0 or more; raises ConfigError where it is none."""
    value = args.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise refused(key, value, "not a number of 0 or more")
    return float(value)


def seconds_of(args: Arguments, key: str) -> float | None:
    """Return an argument that is a time, None where it is absent; raises ConfigError where it is none, or too long."""
    value = args.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_TRIAL_S:
        raise refused(key, value, f"not a number of seconds, {LONGEST_TRIAL_S} at most")
    return float(value)


def documents_of(args: Arguments) -> list[object]:
    """Return objects of packet policy as people wrote them, in any form; raises RequestError."""
    documents = args.get("documents")
    if not isinstance(documents, list):
        raise RequestError("bad-request", "documents is not a list")
    return documents


def floating_ip_of(args: Arguments) -> FloatingIp:
    """Return the floating address that a request describes; raises ConfigError."""
    outbound = args.get("outbound", False)
    if not isinstance(outbound, bool):
        raise refused("outbound", outbound, "not true or false")
    namespace, slash, name = (text_of(args, "workload") or "").partition("/")
    key = key_of({"name": name, "namespace": namespace} if slash else {**args, "name": namespace})
    return FloatingIp(address(text_of(args, "external") or "", "external"), key, outbound)


def address(text: str, key: str = "ip") -> IPAddress:
    """Return an address; raises ConfigError."""
    try:
        if "%" in text:
            raise ValueError("scoped (RFC 4007 §11)")
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise refused(key, text, "not an IP address (without prefix length or zone)") from error


def labels(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """Return (key, value) of each `KEY=VALUE`, sorted; raises ConfigError where one is not a label, or is not given."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise refused("label", text, "not KEY=VALUE")
        try:
            label_key(key)
            label_value(value)
        except BadValueError as error:
            raise refused("label", text, str(error)) from error
        if key in OWN_LABELS or key.startswith(NAMESPACE_PREFIX):
            raise refused("label", text, f"{key} is not given by hand: it follows from the namespace")
        if found.setdefault(key, value) != value:
            raise refused("label", text, f"{key} is {found[key]} already")
    return tuple(sorted(found.items()))


def ports(texts: list[str]) -> tuple[tuple[str, str, int], ...]:
    """Return (name, protocol, number) of each `NAME=tcp:8080`, sorted; raises ConfigError where one is no port."""
    found: dict[tuple[str, str], int] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        protocol, colon, number = rest.partition(":")
        if not (equals and colon and number.isascii() and number.isdigit() and 0 < int(number) < 1 << 16):
            raise refused("port", text, "not NAME=PROTOCOL:NUMBER, with a number from 1 to 65535")
        try:
            port_name(name)
        except BadValueError as error:
            raise refused("port", text, str(error)) from error
        if PROTOCOLS.get(protocol) not in WITH_PORTS:
            known = ", ".join(word for word, each in PROTOCOLS.items() if each in WITH_PORTS)
            raise refused("port", text, f"{protocol!r} is not one of {known}")
        if found.setdefault((name, protocol), int(number)) != int(number):
            raise refused("port", text, f"{name} is {found[name, protocol]} already")
    return tuple(sorted((name, protocol, number) for (name, protocol), number in found.items()))


def _is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is a text without NUL, and without the halves of surrogate pairs that JSON can carry."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
