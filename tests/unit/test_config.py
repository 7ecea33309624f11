"""The configuration file: what it becomes, and how it is refused."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from bgpmesh import config
from bgpmesh.errors import ConfigError, Problem
from bgpmesh.peering.options import Limit
from bgpmesh.peering.peer import AddPath, FlowLimit
from bgpmesh.route.nlri import Family
from bgpmesh.workload.pool import Masquerade

CONFIG_DIRECTORY = Path(__file__).parent.parent.parent / "config"

THREE_NODES = """
[cluster]
asn = 64512
[pool.default]
cidr = "10.244.0.0/16"
[node.n1]
address = "192.0.2.1"
address6 = "2001:db8::1"
pod_cidrs = ["10.244.1.0/26", "fd00:10:244:1::/112"]
labels = { rack = "r1" }
[node.n2]
address = "192.0.2.2"
pod_cidrs = ["10.244.2.0/26"]
[node.n3]
address = "192.0.2.3"
"""


def problems(text: str, file: str = "f.toml") -> list[tuple[str, str, str]]:
    """Return (key, value, reason) of every problem of a text."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text, file)
    assert {problem.file for problem in caught.value.problems} == {file}
    return [(problem.key, problem.value, problem.reason) for problem in caught.value.problems]


def problems_of(lines: str, section: str = "cluster") -> list[tuple[str, str, str]]:
    """Return the problems of a few lines within an otherwise valid section."""
    start = {
        "cluster": "",
        "node": "[cluster]\nasn = 1\n[node.a]\naddress = '192.0.2.1'\n",
        "peer": "[cluster]\nasn = 1\n[node.a]\naddress = '192.0.2.1'\n[peer.p]\naddress = '192.0.2.9'\nasn = 2\n",
    }.get(section, f"[cluster]\nasn = 1\n[{section}]\n")
    return problems((start or "[cluster]\nasn = 1\n") + lines)


def test_a_file_of_one_line_is_valid() -> None:
    """Only the AS number has no default: pools, nodes and peers may all be absent."""
    loaded = config.parse("[cluster]\nasn = 64512", "f.toml")
    cluster = loaded.cluster
    expected = (64512, "mesh", 9, (), ())
    assert expected == (cluster.asn, cluster.topology, cluster.hold_time, loaded.nodes, loaded.pools)


def test_what_is_wrong_beside_a_bad_required_key_is_named_too() -> None:
    """A table whose `asn`, `address` or `cidr` is bad hides nothing, and accuses nobody for what it does not say."""
    found = problems(
        """
        [cluster]
        asn = "x"
        password_file = "absent.key"
        [pool.a]
        cidr = "10.0.0.0/8"
        [pool.b]
        cidr = "11.0.0.0/7x"
        [node.n1]
        address = "192.0.2.1"
        pod_cidrs = ["11.0.1.0/24"]
        [node.n2]
        address = "192.0.2.300"
        pod_cidrs = ["11.0.1.0/26", "11.0.2.0/33"]
        advertise = ["203.0.113.7/24"]
        [peer.p]
        address = "192.0.2.1"
        asn = 0
        nodes = "rack =="
        import = ["nope"]
        password_file = "absent.key"
        """
    )
    expected = {
        "cluster.asn", "cluster.password_file", "pool.b.cidr",
        "node.n2.address", "node.n2.advertise", "node.n2.pod_cidrs",
        "peer.p.address", "peer.p.asn", "peer.p.nodes", "peer.p.import", "peer.p.password_file",
    }  # fmt: skip
    assert sorted([*expected, "node.n2.pod_cidrs"]) == sorted(key for key, _, _ in found)


ONLY_PEERS = "[cluster]\nasn = 64512\n[peer.p]\naddress = '192.0.2.9'\nasn = 65001\n"


def test_a_file_with_only_peers_is_about_the_host_that_reads_it() -> None:
    """Without `[node.*]` the `source` of its peers is its address, next hop and router id."""
    loaded = config.parse(ONLY_PEERS + "source = '192.0.2.1'", "f.toml")
    found = config.effective(loaded, config.find_node(loaded, "whoever"))
    (peer,) = found.peers
    own = ipaddress.ip_address("192.0.2.1")
    assert ("whoever", int(own), own, [own]) == (
        found.node,
        found.router_id,
        peer.local_address,
        [next_hop for _, next_hop in peer.next_hops],
    )


def test_a_file_with_only_peers_that_say_no_source_is_valid_and_says_what_is_missing_to_run() -> None:
    """The file is read; that this host's address is not known is one problem in words."""
    loaded = config.parse(ONLY_PEERS, "f.toml")
    with pytest.raises(ConfigError, match=r"no \[peer.\*\] whose source would be this host's address"):
        config.find_node(loaded, "n1")


def test_true_is_the_widest_multihop() -> None:
    """`multihop = true` sends with the highest TTL, as a number sends with that one."""
    found = [config.parse(f"{ONLY_PEERS}multihop = {said}", "f.toml").neighbours[0].multihop for said in ("true", "4")]
    assert [255, 4] == found


def test_the_effective_configuration_of_a_node_has_its_peers_and_prefixes() -> None:
    """`effective` tells the engine of one node who it is, whom it talks to and what it has."""
    found = config.effective(config.parse(THREE_NODES, "f.toml"), "n1")
    assert ("n1", ["n2", "n3"], ["10.244.1.0/26", "fd00:10:244:1::/112"], int(ipaddress.ip_address("192.0.2.1"))) == (
        found.node,
        [peer.name for peer in found.peers],
        [str(cidr) for cidr in found.pod_cidrs],
        found.router_id,
    )


def test_addresses_of_nodes_and_peers_are_taken_and_that_of_a_workload_that_speaks_bgp_is_not() -> None:
    """By who has them; a peer within a block of the node can only be a workload there."""
    text = THREE_NODES.replace('address = "192.0.2.3"', 'address = "192.0.2.3"\nlisten = ["192.0.2.33", "::"]')
    text += """
[peer.tor1]
address = "192.0.2.254"
source = "192.0.2.251"
asn = 65001
[peer.router]
address = "10.244.1.9"
asn = 65002
"""
    loaded = config.parse(text, "f.toml")
    expected = {
        "192.0.2.1": "node n1",
        "2001:db8::1": "node n1",
        "192.0.2.2": "node n2",
        "192.0.2.3": "node n3",
        "192.0.2.33": "node n3",
        "192.0.2.254": "peer tor1",
        "192.0.2.251": "the source of peer tor1",
    }
    taken = {str(address): holder for address, holder in config.effective(loaded, "n1").taken.items()}
    assert taken == expected
    taken = {str(address): holder for address, holder in config.effective(loaded, "n2").taken.items()}
    assert taken == expected | {"10.244.1.9": "peer router"}


def test_a_node_within_the_block_of_another_is_warned_of() -> None:
    """That other one discards its packets there; its own address within its own block does no harm."""
    text = THREE_NODES.replace("192.0.2.1", "10.244.1.1").replace("192.0.2.3", "10.244.1.3")
    loaded = config.parse(text, "f.toml")
    said = [[w for w in config.warnings(loaded, name) if "discards" in w] for name in ("n1", "n2")]
    why = "node.n3 has 10.244.1.3, which node.n1 discards: it lies in its pod CIDR 10.244.1.0/26"
    assert said == [[why], []]


def test_ten_mistakes_are_ten_problems() -> None:
    """Every problem is named at once, with key, value and reason."""
    text = """
    colour = "blue"
    [cluster]
    hold_tme = 9
    hold_time = 2
    topology = "reflector"
    [pool.a]
    cidr = "10.0.0.0/8"
    [pool.b]
    cidr = "10.1.0.0/16"
    [node.n1]
    address = "192.0.2.1"
    pod_cidrs = ["10.9.0.0/24", "10.2.0.1/24"]
    [node.n2]
    address = "192.0.2.1"
    [peer.tor]
    address = "192.0.2.300"
    asn = 0
    """
    assert sorted(problems(text)) == [
        ("cluster.asn", "", "missing: AS number of the cluster"),
        ("cluster.hold_time", "2", "1 and 2 are below the minimum of 3 s (RFC 4271 §4.2)"),
        ("cluster.hold_tme", "9", "unknown key; did you mean hold_time?"),
        ("cluster.topology", '"reflector"', "not one of mesh, reflectors, none; did you mean reflectors?"),
        ("colour", '"blue"', "unknown table; did you mean cluster?"),
        ("node.n1.pod_cidrs", '"10.2.0.1/24"', "host bits are set; the prefix is 10.2.0.0/24"),
        ("node.n2.address", '"192.0.2.1"', "also the node.n1.address"),
        ("peer.tor.address", '"192.0.2.300"', "not an IP address"),
        ("peer.tor.asn", "0", "not between 1 and 4294967295"),
        ("pool.b.cidr", '"10.1.0.0/16"', "overlaps 10.0.0.0/8 of pool.a.cidr"),
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", None),
        ("masquerade = false", None),
        ("masquerade = true", Masquerade()),
        ("masquerade = {}", Masquerade()),
        (
            "masquerade = { exclude = ['192.0.2.0/24'], source = '192.0.2.9' }",
            Masquerade((ipaddress.ip_network("192.0.2.0/24"),), ipaddress.ip_address("192.0.2.9")),
        ),
    ],
)
def test_a_pool_is_masqueraded_where_it_says_so(said: str, expected: Masquerade | None) -> None:
    """Nothing is masqueraded by default."""
    loaded = config.parse(f"[cluster]\nasn = 1\n[pool.a]\ncidr = '10.0.0.0/8'\n{said}", "f.toml")
    assert loaded.pools[0].masquerade == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", None),
        ("flowspec = {}", FlowLimit(100, 3600)),
        ("flowspec = { rules = 5 }", FlowLimit(5, 3600)),
        ("flowspec = { rules = 5, ttl = 0 }", FlowLimit(5, 0)),
    ],
)
def test_flowspec_is_taken_from_whom_the_file_names_for_it(said: str, expected: FlowLimit | None) -> None:
    """Nobody by default, and never from a node; it is told where no packet is filtered."""
    tor = f"[peer.tor]\naddress = '192.0.2.254'\nasn = 65001\nimport = ['all']\nexport = ['own']\n{said}\n"
    loaded = config.parse(f"{THREE_NODES}{tor}[kernel]\nenabled = false\n", "f.toml")
    assert {peer.name: peer.flowspec for peer in config.effective(loaded, "n1").peers} == {
        "n2": None,
        "n3": None,
        "tor": expected,
    }
    warned = ["peer.tor.flowspec does nothing with kernel.enabled = false"]
    assert [each for each in config.warnings(loaded, "n1") if "flowspec" in each] == warned * (expected is not None)


def test_floating_addresses_are_known_on_every_node() -> None:
    """Several of one workload, one of each family for what it sends."""
    tables = """
[floating_ip."203.0.113.10"]
workload = "shop/web"
outbound = true
[floating_ip."203.0.113.11"]
workload = "shop/web"
[floating_ip."2001:DB8:f::10"]
workload = "shop/web"
outbound = true
"""
    loaded = config.parse(THREE_NODES + tables, "f.toml")
    assert [(str(each.external), each.workload, each.outbound) for each in loaded.floating] == [
        ("203.0.113.10", "shop/web", True),
        ("203.0.113.11", "shop/web", False),
        ("2001:db8:f::10", "shop/web", True),
    ]
    for node in ("n1", "n2", "n3"):
        assert config.effective(loaded, node).floating == loaded.floating
    silent = "node.n2 has no ipv6 address: it announces no floating address of that family"
    assert [silent in config.warnings(loaded, node) for node in ("n1", "n2")] == [False, True]


COMMAND = 'not a program and its arguments: ["PROGRAM", "ARGUMENT", ..]'
NO_ADDRESS = 'its name is not an IP address; write [floating_ip."ADDRESS"]'
OF_ONE_LINK = "a link-local address, which is of one link only"
NO_LINK = "a link-local address without its link, as in fe80::2%eth1"
ON_LINK = "[peer.q]\nasn = 2\naddress = 'fe80::2%eth1'\n"
NOT_OF_ONE = "only a link-local address has a link"
NOT_WITH_LINK = "not together with interface eth1"
BY_LINK = "[peer.q]\nasn = 2\ninterface = 'eth1'\n"
OUR_END = "address fe80::2%eth1 and our end have to be link-local addresses of one link"
MISTAKES = [  # (section, lines in it, key, value, reason)
    ("cluster", "hold_time = '9'", "cluster.hold_time", '"9"', "not a whole number"),
    ("cluster", "hold_time = true", "cluster.hold_time", "true", "not a whole number"),
    ("cluster", "hold_time = 1", "cluster.hold_time", "1", "1 and 2 are below the minimum of 3 s (RFC 4271 §4.2)"),
    ("cluster", "graceful_restart = 4096", "cluster.graceful_restart", "4096", "not between 0 and 4095 s"),
    (
        "cluster",
        "graceful_restart = 0\nlong_lived_graceful_restart = 60",
        "cluster.long_lived_graceful_restart",
        "60",
        "needs graceful_restart",
    ),
    (
        "peer",
        "graceful_restart = 0\nlong_lived_graceful_restart = 60",
        "peer.p.long_lived_graceful_restart",
        "60",
        "needs graceful_restart",
    ),
    (
        "peer",
        "long_lived_graceful_restart = 16777216",
        "peer.p.long_lived_graceful_restart",
        "16777216",
        "not between 0 and 16777215 s",
    ),
    ("cluster", "restart_deferral = nan", "cluster.restart_deferral", "nan", "not a number"),
    ("cluster", "bfd = 'yes'", "cluster.bfd", '"yes"', "not true, false or { interval_ms, multiplier, hops }"),
    ("cluster", "bfd = { multiplier = 0 }", "cluster.bfd", "0", "multiplier is not between 1 and 255"),
    ("cluster", "bfd = { interval_ms = 9 }", "cluster.bfd", "9", "interval_ms is not between 10 and 60000"),
    ("cluster", "bfd = { interval_ms = 0.3 }", "cluster.bfd", "0.3", "interval_ms is not a whole number"),
    ("peer", "bfd = { hops = 256 }", "peer.p.bfd", "256", "hops is not between 1 and 255"),
    (
        "peer",
        "bfd = { interval = 300 }",
        "peer.p.bfd",
        "{ interval }",
        "unknown key interval; did you mean interval_ms?",
    ),
    ("pool.a", "masquerade = 1\ncidr='10.0.0.0/8'", "pool.a.masquerade", "1", "not true, false or { exclude, source }"),
    (
        "pool.a",
        "masquerade = { excluded = [] }\ncidr='10.0.0.0/8'",
        "pool.a.masquerade",
        "{ excluded }",
        "unknown key excluded; did you mean exclude?",
    ),
    (
        "pool.a",
        "masquerade = { exclude = ['10.0.0.1/8'] }\ncidr='10.0.0.0/8'",
        "pool.a.masquerade",
        '"10.0.0.1/8"',
        "exclude: host bits are set; the prefix is 10.0.0.0/8",
    ),
    (
        "pool.a",
        "masquerade = { source = '2001:db8::1' }\ncidr='10.0.0.0/8'",
        "pool.a.masquerade",
        '"2001:db8::1"',
        "not of the family of the pool 10.0.0.0/8",
    ),
    (
        "pool.a",
        "cidr='10.0.0.0/8'\nreserved=['11.0.0.0/8']",
        "pool.a.reserved",
        '"11.0.0.0/8"',
        "outside the pool 10.0.0.0/8",
    ),
    (
        "workload",
        "prefix = 'toolong'",
        "workload.prefix",
        '"toolong"',
        "not one to four of a-z and 0-9, a letter first",
    ),
    (
        "kernel",
        "protocol = 186",
        "kernel.protocol",
        "186",
        "another routing daemon marks its routes with it, and would sweep ours",
    ),
    ("kernel", "ecpm = 4", "kernel.ecpm", "4", "unknown key; did you mean ecmp?"),
    ("metrics", "listen = '9179'", "metrics.listen", '"9179"', 'not host:port, [address]:port or ""'),
    ("control", "socket = 'run/x'", "control.socket", '"run/x"', "not an absolute path"),
    ("state", "directory = ''", "state.directory", '""', "not an absolute path"),
    ("node", "address6 = '192.0.2.7'", "node.a.address6", '"192.0.2.7"', "not an IPv6 address"),
    ("node", "pod_cidrs = '10.0.0.0/8'", "node.a.pod_cidrs", '"10.0.0.0/8"', "not a list"),
    ("node", "advertise = ['10.0.0.0/8', '10.0.0.0/8']", "node.a.advertise", '"10.0.0.0/8"', "stands here twice"),
    ("node", "labels = { rack = 1 }", "node.a.labels", "1", "label rack is not a string"),
    ("node", "asn = 23456", "node.a.asn", "23456", "it is AS_TRANS (RFC 6793 §9)"),
    ("node", "router_id = '0.0.0.0'", "node.a.router_id", '"0.0.0.0"', "zero is no identifier (RFC 6286 §2.1)"),
    ("peer", f"{BY_LINK}address = '192.0.2.10'", "peer.q.address", '"192.0.2.10"', NOT_WITH_LINK),
    (
        "peer",
        f"{BY_LINK}range = '192.0.2.128/25'",
        "peer.q.range",
        '"192.0.2.128/25"',
        "not together with interface eth1",
    ),
    ("peer", f"{BY_LINK}source = '192.0.2.1'", "peer.q.source", '"192.0.2.1"', "not together with interface eth1"),
    ("peer", f"{BY_LINK}multihop = 2", "peer.q.multihop", "2", "it is one hop away, on its link"),
    ("peer", f"{BY_LINK}ttl_security = 2", "peer.q.ttl_security", "2", "it is one hop away, on its link"),
    ("peer", "[peer.q]\nasn = 2\ninterface = 'eth/1'", "peer.q.interface", '"eth/1"', "not the name of a link"),
    (
        "peer",
        f"{BY_LINK}[peer.r]\nasn = 2\ninterface = 'eth1'",
        "peer.r.interface",
        '"eth1"',
        "also the peer.q.interface, and node a talks to both",
    ),
    ("node", "address6 = 'fe80::1%eth1'", "node.a.address6", '"fe80::1%eth1"', OF_ONE_LINK),
    ("peer", "source = 'fe80::1'", "peer.p.source", '"fe80::1"', NO_LINK),
    (
        "peer",
        "source = 'fe80::1%a b'",
        "peer.p.source",
        '"fe80::1%a b"',
        NO_LINK,
    ),
    (
        "peer",
        "source = '2001:db8::1%eth1'",
        "peer.p.source",
        '"2001:db8::1%eth1"',
        "only a link-local address has a link",
    ),
    ("peer", f"{ON_LINK}source = '2001:db8::1'", "peer.q.source", '"2001:db8::1"', OUR_END),
    ("peer", f"{ON_LINK}source = 'fe80::1%eth2'", "peer.q.source", '"fe80::1%eth2"', OUR_END),
    ("peer", ON_LINK, "peer.q.source", "", OUR_END),
    ("peer", f"{ON_LINK}source = 'fe80::1%eth1'\nmultihop = 2", "peer.q.multihop", "2", "fe80::2%eth1 is one hop away"),
    (
        "peer",
        f"{ON_LINK}source = 'fe80::1%eth1'\nttl_security = 2",
        "peer.q.ttl_security",
        "2",
        "fe80::2%eth1 is one hop away",
    ),
    ("peer", "nodes = \"rack = 'r1'\"", "peer.p.nodes", "\"rack = 'r1'\"", "column 6: '=' is not understood here"),
    (
        "peer",
        "import = ['pods']",
        "peer.p.import",
        '"pods"',
        "no such filter; there are all, own, none",
    ),
    (
        "peer",
        "flowspec = true",
        "peer.p.flowspec",
        "true",
        "not a table { rules, ttl }; {} is the default of both",
    ),
    ("peer", "add_path = 8", "peer.p.add_path", "8", "not true, false or { send, receive }"),
    ("peer", "add_path = { send = 256 }", "peer.p.add_path", "256", "send is not between 0 and 255"),
    ("peer", "add_path = { receive = 1 }", "peer.p.add_path", "1", "receive is not true or false"),
    ("peer", "add_path = { sent = 8 }", "peer.p.add_path", "{ sent }", "unknown key sent; did you mean send?"),
    ("cluster", "add_path = 'no'", "cluster.add_path", '"no"', "not true, false or { send, receive }"),
    ("peer", "flowspec = { rules = 0 }", "peer.p.flowspec", "0", "rules is not between 1 and 10000"),
    ("peer", "flowspec = { ttl = -1 }", "peer.p.flowspec", "-1", "ttl is not between 0 and 31536000 s"),
    ("peer", "flowspec = { ttls = 1 }", "peer.p.flowspec", "{ ttls }", "unknown key ttls; did you mean ttl?"),
    ("peer", "reflector_client = true", "peer.p.reflector_client", "true", "needs iBGP, and node a has another AS"),
    ("peer", "ttl_security = true\nmultihop = 3", "peer.p.multihop", "3", "not together with ttl_security"),
    ("peer", "source = '2001:db8::1'", "peer.p.source", '"2001:db8::1"', "not of the family of address 192.0.2.9"),
    ("peer", "families = []", "peer.p.families", "[]", "empty: a session has at least one family"),
    ("peer", "families = ['ipv6']", "peer.p.families", '["ipv6"]', "node a has no address of it"),
    (
        "peer",
        "max_prefixes = { limit = 1, warn = 2 }",
        "peer.p.max_prefixes",
        "2",
        "warn is above limit, 1",
    ),
    (
        "peer",
        "max_prefixes = { limit = 5, warm = 2 }",
        "peer.p.max_prefixes",
        "{ limit, warm }",
        "unknown key warm; did you mean warn?",
    ),
    (
        "peer",
        "max_prefixes = { limit = 5, warn = 0 }",
        "peer.p.max_prefixes",
        "0",
        "warn is not between 1 and 100000000",
    ),
    ("peer", "max_prefixes = {}", "peer.p.max_prefixes", "{}", "limit is missing"),
    ("peer", "next_hop = 'me'", "peer.p.next_hop", '"me"', "not one of auto, self, keep"),
    ("peer", "[peer.a]\naddress='192.0.2.8'\nasn=2", "peer.a", "", "a node has this name too"),
    (
        "peer",
        "[peer.q]\naddress='192.0.2.9'\nasn=2",
        "peer.q.address",
        '"192.0.2.9"',
        "also the peer.p.address, and node a talks to both",
    ),
    ("peer", "[peer.q]\naddress='192.0.2.1'\nasn=2", "peer.q.address", '"192.0.2.1"', "also the node.a.address"),
    (
        "peer",
        "[peer.'x@y']\naddress='192.0.2.8'\nasn=2",
        'peer."x@y"',
        "",
        "a name is 1 to 63 letters, digits, '.', '_' and '-'",
    ),
    ("node", "[floating_ip.x]\nworkload='a/b'", 'floating_ip."x"', "", NO_ADDRESS),
    ("node", "[floating_ip]\nworkload='a/b'", 'floating_ip."workload"', "", NO_ADDRESS),
    (
        "node",
        "[floating_ip.'1.2.3.4']\nworkload='web'",
        'floating_ip."1.2.3.4".workload',
        '"web"',
        "not NAMESPACE/NAME",
    ),
    (
        "node",
        "[floating_ip.'1.2.3.4']",
        'floating_ip."1.2.3.4".workload',
        "",
        "missing: the workload it leads to, NAMESPACE/NAME; its node announces the address",
    ),
    ("node", "[floating_ip.'1.2.3.4']\nworkload='a/b'\nport=1", 'floating_ip."1.2.3.4".port', "1", "unknown key"),
    (
        "node",
        "[floating_ip.'127.0.0.1']\nworkload='a/b'",
        'floating_ip."127.0.0.1"',
        "",
        "is not a unicast address that can be routed to a node",
    ),
    ("node", "[floating_ip.'192.0.2.1']\nworkload='a/b'", 'floating_ip."192.0.2.1"', "", "already in use by node a"),
    ("peer", "[floating_ip.'192.0.2.9']\nworkload='a/b'", 'floating_ip."192.0.2.9"', "", "already in use by peer p"),
    (
        "node",
        "advertise=['1.2.3.4/32']\n[floating_ip.'1.2.3.4']\nworkload='a/b'",
        'floating_ip."1.2.3.4"',
        "",
        "already in use by node a, which announces it as its own",
    ),
    (
        "pool.p",
        "cidr='1.2.0.0/16'\n[floating_ip.'1.2.3.4']\nworkload='a/b'",
        'floating_ip."1.2.3.4"',
        "",
        "lies in pool p (1.2.0.0/16), whose addresses are the workloads' own",
    ),
    (
        "node",
        "pod_cidrs=['1.2.3.0/24']\n[floating_ip.'1.2.3.4']\nworkload='a/b'",
        'floating_ip."1.2.3.4"',
        "",
        "lies in pod CIDR 1.2.3.0/24, whose addresses are the workloads' own",
    ),
    (
        "node",
        "[floating_ip.'2001:db8::a']\nworkload='a/b'\n[floating_ip.'2001:DB8::A']\nworkload='a/c'",
        'floating_ip."2001:DB8::A"',
        "",
        "stands here twice: it is 2001:db8::a",
    ),
    (
        "node",
        "[floating_ip.'1.2.3.4']\nworkload='a/b'\noutbound=true\n[floating_ip.'1.2.3.5']\nworkload='a/b'\noutbound=true",
        'floating_ip."1.2.3.5".outbound',
        "true",
        "connections of a/b leave by 1.2.3.4 already",
    ),
    (
        "cluster",
        "[process.x]",
        "process.x.run",
        "",
        "missing: a program that speaks ExaBGP's text API on its standard output, and its arguments",
    ),
    ("cluster", "[process.x]\nrun = 'true'", "process.x.run", '"true"', COMMAND),
    ("cluster", "[process.x]\nrun = []", "process.x.run", "[]", COMMAND),
    ("cluster", "[process.x]\nrun = ['']", "process.x.run", '[""]', "has no program"),
    ("cluster", '[process.x]\nrun = ["a", "b\\u0000"]', "process.x.run", '["a", "b\\u0000"]', "has a NUL in it"),
    (
        "cluster",
        "[process.x]\nrun = ['a']\nnodes = 'rack =='",
        "process.x.nodes",
        '"rack =="',
        "column 8: expected a value in quotes, not the end",
    ),
    ("cluster", "[process.x]\nrun = ['a']\nmax_routes = 0", "process.x.max_routes", "0", "not between 1 and 100000"),
    ("cluster", "[policy]\nfailsafe_inbound = 22", "policy.failsafe_inbound", "22", "not a list"),
    ("cluster", "[node]\naddress = '192.0.2.1'", "node.address", '"192.0.2.1"', "stands outside of a [node.NAME]"),
    (
        "node",
        "[node.b]\naddress = '2001:db8::1'\nrouter_id='1.1.1.1'",
        "node.a.address",
        '"192.0.2.1"',
        "no address family in common with node.b",
    ),
    (
        "node",
        "[node.b]\naddress = '192.0.2.7'\nrouter_id='192.0.2.1'",
        "node.b.router_id",
        '"192.0.2.1"',
        "also the node.a.router_id",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\n",
        "peer.q.address",
        "",
        "missing: where it is called; or a range or an interface",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.128/25'\naddress = '192.0.2.200'",
        "peer.q.range",
        '"192.0.2.128/25"',
        "not together with address 192.0.2.200",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.129/25'",
        "peer.q.range",
        '"192.0.2.129/25"',
        "host bits are set; the prefix is 192.0.2.128/25",
    ),
    ("peer", "[peer.q]\nasn = 2\nrange = 'fd00::%eth1/64'", "peer.q.range", '"fd00::%eth1/64"', "not a prefix"),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.0/24'",
        "peer.q.range",
        '"192.0.2.0/24"',
        "covers 192.0.2.1, the node.a.address: nobody else calls from there",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.128/25'\nsource = '192.0.2.129'",
        "peer.q.range",
        '"192.0.2.128/25"',
        "covers 192.0.2.129, the peer.q.source: nobody else calls from there",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '10.0.0.0/8'\n[pool.x]\ncidr = '10.244.0.0/16'",
        "peer.q.range",
        '"10.0.0.0/8"',
        "touches 10.244.0.0/16 of pool.x: a workload could call",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '10.244.1.0/24'\n[pool.x]\ncidr = '10.244.0.0/16'",
        "peer.q.range",
        '"10.244.1.0/24"',
        "touches 10.244.0.0/16 of pool.x: a workload could call",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.128/25'\n[peer.r]\nasn = 3\nrange = '192.0.2.128/25'",
        "peer.r.range",
        '"192.0.2.128/25"',
        "also the peer.q.range, and node a talks to both",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.128/25'\npassive = false",
        "peer.q.passive",
        "",
        "false: speakers of a range are never called",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.128/25'\nport = 1790",
        "peer.q.port",
        "1790",
        "speakers of a range are never called",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.128/25'\nsource = '2001:db8::1'",
        "peer.q.source",
        '"2001:db8::1"',
        "not of the family of range 192.0.2.128/25",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '224.0.0.0/8'",
        "peer.q.range",
        '"224.0.0.0/8"',
        "not the addresses of hosts that can call",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '2001:db8::/64'",
        "peer.q.range",
        '"2001:db8::/64"',
        "node a has no address of its family: needs source",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.128/25'\nrange_limit = 0",
        "peer.q.range_limit",
        "0",
        "not between 1 and 100000",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\naddress = '192.0.2.200'\nrange_limit = 7",
        "peer.q.range_limit",
        "7",
        "only with range",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\naddress = '192.0.2.200'\npods = ['10.244.0.0/16']",
        "peer.q.pods",
        '["10.244.0.0/16"]',
        "only with range",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.8/29'\npassword = 'secret'",
        "peer.p.password",
        "",
        "missing: it lies in the peer.q.range 192.0.2.8/29, which has one",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.8/29'\npassword = 'secret'\n[peer.p2]\naddress = '192.0.2.17'\nasn = 2",
        "peer.p.password",
        "",
        "missing: it lies in the peer.q.range 192.0.2.8/29, which has one",
    ),
    (
        "peer",
        "[peer.q]\nasn = 2\nrange = '192.0.2.128/25'\npassword = 'secret'\n[peer.r]\nasn = 3\nrange = '192.0.2.128/26'",
        "peer.r.password",
        "",
        "missing: it lies in the peer.q.range 192.0.2.128/25, which has one",
    ),
    (
        "peer",
        (
            "[node.b]\naddress = '192.0.2.2'\nlabels = { r = '1' }\n[node.c]\naddress = '192.0.2.200'\n"
            "[peer.q]\nasn = 2\nrange = '192.0.2.128/25'\npassword = 'secret'\nnodes = 'has(r)'"
        ),
        "cluster.password",
        "",
        "missing: node.c lies in the peer.q.range 192.0.2.128/25, which has one",
    ),
]


@pytest.mark.parametrize(("section", "lines", "key", "value", "reason"), MISTAKES)
def test_one_mistake_is_one_problem(section: str, lines: str, key: str, value: str, reason: str) -> None:
    """What is wrong is said once, by its key, as it stands in the file, with the reason."""
    assert problems_of(lines, section) == [(key, value, reason)]


def test_a_range_is_no_peer_of_its_own_but_what_each_of_its_speakers_is_like() -> None:
    """It is told beside the peers, and its `pods` are addresses of the cluster on every node."""
    text = """
[peer.leaves]
range = "192.0.2.128/25"
asn = 64512
nodes = "rack == 'r1'"
reflector_client = true
password = "secret"
range_limit = 5
bfd = true
pods = ["10.244.128.0/17"]
"""
    loaded = config.parse(THREE_NODES + text, "f.toml")
    here, there = (config.effective(loaded, node) for node in ("n1", "n2"))
    assert [peer.name for peer in here.peers] == ["n2", "n3"]
    (around,) = here.ranges
    assert (str(around.network), around.limit, there.ranges) == ("192.0.2.128/25", 5, ())
    speaker = around.speaker(ipaddress.ip_address("192.0.2.200"))
    assert (speaker.name, str(speaker.address), speaker.of_range) == ("leaves@192.0.2.200", "192.0.2.200", "leaves")
    assert (speaker.is_passive, speaker.in_cluster, speaker.password) == (True, True, "secret")
    watched = around.watching(speaker.address)
    assert watched is not None
    assert (watched.name, watched.local, watched.remote) == ("leaves@192.0.2.200", "192.0.2.1", "192.0.2.200")
    pods = ipaddress.ip_network("10.244.128.0/17")
    for each in (here, there):
        assert pods in each.around.space
        assert [(owner.name, owner.router_id) for owner in each.owners if pods in owner.blocks] == [("leaves", None)]
    rows = {row["peer"]: row["address"] for row in config.shown(loaded, "n1")["sessions"]}  # type: ignore[attr-defined]
    assert rows["leaves"] == "192.0.2.128/25"


def test_pod_cidrs_that_overlap_are_refused_within_and_across_nodes() -> None:
    """An address belongs to one block of one node."""
    text = """
    [cluster]
    asn = 1
    [node.a]
    address = "192.0.2.1"
    pod_cidrs = ["10.244.0.0/16"]
    [node.b]
    address = "192.0.2.2"
    pod_cidrs = ["10.245.0.0/24", "10.244.7.0/24", "10.245.0.0/25"]
    """
    assert problems(text) == [
        ("node.b.pod_cidrs", '"10.244.7.0/24"', "overlaps 10.244.0.0/16 of node.a.pod_cidrs"),
        ("node.b.pod_cidrs", '"10.245.0.0/25"', "overlaps 10.245.0.0/24 of node.b.pod_cidrs"),
    ]


def test_a_pod_cidr_may_be_the_whole_pool_and_need_none_of_its_family() -> None:
    """The whole pool is inside the pool; a file without IPv6 pools says nothing about IPv6 blocks."""
    text = """
    [cluster]
    asn = 1
    [pool.p]
    cidr = "10.0.0.0/24"
    [node.a]
    address = "192.0.2.1"
    pod_cidrs = ["10.0.0.0/24", "fd00::/112"]
    """
    assert len(config.parse(text, "f").nodes[0].pod_cidrs) == 2
    assert problems(text.replace("10.0.0.0/24", "10.0.0.0/23", 1).replace('["10.0.0.0/24"', '["10.0.2.0/24"')) == [
        ("node.a.pod_cidrs", '"10.0.2.0/24"', "outside every pool")
    ]


def test_prefixes_that_everybody_ignores_are_not_to_be_announced() -> None:
    """A default route is, and what only looks unusual."""
    text = """
    [cluster]
    asn = 1
    [node.a]
    address = "192.0.2.1"
    advertise = %s
    """
    ignored = ["127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::1/128", "fe80::/64", "ff00::/8"]
    taken = ["0.0.0.0/0", "::/0", "169.254.169.254/32", "0.0.0.0/1", "fec0::/10"]
    assert problems(text % (ignored + taken)) == [
        ("node.a.advertise", f'"{each}"', "nobody routes there: whoever hears of it takes no notice")
        for each in ignored
    ]


def test_two_neighbours_share_an_address_where_no_node_talks_to_both() -> None:
    """The gateway of every rack may have the same address."""
    text = """
    [cluster]
    asn = 1
    [node.a]
    address = "192.0.2.1"
    labels = { rack = "r1" }
    [node.b]
    address = "192.0.2.2"
    labels = { rack = "r2" }
    [peer.one]
    address = "192.0.2.254"
    asn = 2
    nodes = "rack == 'r1'"
    [peer.two]
    address = "192.0.2.254"
    asn = 3
    nodes = "rack == 'r2'"
    """
    loaded = config.parse(text, "f")
    peers = {node: [peer.name for peer in config.effective(loaded, node).peers] for node in ("a", "b")}
    assert peers == {"a": ["b", "one"], "b": ["a", "two"]}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", None),
        ("add_path = false", None),
        ("add_path = true", AddPath(8, receive=True)),
        ("add_path = { send = 2, receive = false }", AddPath(2, receive=False)),
        ("add_path = { send = 0 }", AddPath(0, receive=True)),
        ("add_path = { send = 0, receive = false }", None),
    ],
)
def test_several_paths_go_to_and_from_whom_the_file_names_for_it(said: str, expected: AddPath | None) -> None:
    """`true` is a table with its defaults; a table that says neither way is `false`."""
    text = f"[cluster]\nasn = 64512\n[node.a]\naddress = '192.0.2.1'\n[peer.p]\naddress = '192.0.2.9'\nasn = 2\n{said}"
    (peer,) = config.effective(config.parse(text, "f.toml"), "a").peers
    assert peer.add_path == expected


def test_bfd_is_off_on_or_a_table() -> None:
    """`true` is the default table; a neighbour without an address of ours to send from is refused by name."""
    loaded = config.parse(
        "[cluster]\nasn=64512\nbfd=true\n[node.n1]\naddress='192.0.2.1'\n[node.n2]\naddress='192.0.2.2'\n"
        "[peer.p]\naddress='192.0.2.9'\nasn=65001\nbfd={multiplier=5,hops=2}\n"
        "[peer.q]\naddress='192.0.2.8'\nasn=65001\nbfd=false\n",
        "f.toml",
    )
    assert [tuple(each) for each in config.effective(loaded, "n1").watched] == [
        ("n2", "192.0.2.1", "192.0.2.2", 0, 300, 3),
        ("p", "192.0.2.1", "192.0.2.9", 2, 300, 5),
    ]
    text = "[cluster]\nasn=64512\n[node.n1]\naddress='192.0.2.1'\n[peer.p]\naddress='2001:db8::9'\nasn=65001\nbfd=true"
    reason = "node n1 has no address of its family: needs source"
    assert problems(text) == [("peer.p.bfd", "true", reason)]


def test_an_unknown_node_is_refused_by_what_the_file_has() -> None:
    """The operator sees the names to choose from."""
    loaded = config.parse(THREE_NODES, "f.toml")
    with pytest.raises(ConfigError) as caught:
        config.effective(loaded, "n9")
    assert caught.value.problems == (Problem("f.toml", "node", "n9", "node n9 is not in the file; it has n1, n2, n3"),)


def test_a_node_is_found_by_option_then_environment_then_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """--node, BGPMESH_NODE, the host name, the host name up to its first dot."""
    loaded = config.parse(THREE_NODES, "f.toml")
    monkeypatch.delenv("BGPMESH_NODE", raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "n3.example.org")
    assert config.find_node(loaded, None) == "n3"
    monkeypatch.setenv("BGPMESH_NODE", "n2")
    assert config.find_node(loaded, None) == "n2"
    assert config.find_node(loaded, "n1") == "n1"
    monkeypatch.delenv("BGPMESH_NODE")
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with pytest.raises(ConfigError, match="node elsewhere is not in the file; it has n1, n2, n3"):
        config.find_node(loaded, None)


def test_a_syntax_error_names_its_line() -> None:
    """TOML that cannot be read is refused with line and column."""
    assert problems("[cluster]\nasn = \n") == [("line 2", "", "not TOML: Invalid value (column 7)")]
    assert problems("[cluster]\nasn = [1,") == [("", "", "not TOML: Invalid value before the end of the file")]


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000, "a = 0x" + "f" * 9000])
def test_absurd_values_are_refused_and_not_shown(text: str) -> None:
    """What breaks a parser or a terminal is a problem in words, not a traceback."""
    assert all(len(reason) < 300 and len(value) < 120 for _, value, reason in problems(text))


def test_text_that_is_none_and_keys_that_are_more_than_a_line() -> None:
    """What a request hands over may be no Unicode text; a key may hold a line end, and its problem stays on one."""
    ((key, _, reason),) = problems("a = '\ud800'")
    assert (key, "not TOML: 'utf-8' codec can't encode" in reason) == ("", True)
    assert problems('[cluster]\nasn = 1\n"a\\nb" = 1') == [("cluster.a?b", "1", "unknown key")]


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """A missing file and one that is no text are problems of the file."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (("absent", "cannot be read: No such file or directory"), ("binary", "not UTF-8 at byte 0")):
        with pytest.raises(ConfigError) as caught:
            config.load(str(tmp_path / name))
        assert caught.value.problems == (Problem(str(tmp_path / name), "", "", reason),)


# ── secrets ──────────────────────────────────────────────────────────────────

SECRET = "hunter2hunter2"  # noqa: S105  nobody's


@pytest.mark.parametrize(
    "text",
    [
        f"[cluster]\nasn = 1\npasword = '{SECRET}'",
        f"[cluster]\nasn = 1\npassword = ['{SECRET}']",
        f"[cluster]\nasn = 1\npassword = '{SECRET * 10}'",
        f"[clutser]\npassword = '{SECRET}'",
        f"[cluster]\nasn = 1\n[kernel]\nmd5_key = '{SECRET}'",
        f"[cluster]\nasn = 1\n[peer]\npassword = '{SECRET}'",
        f"[cluster]\nasn = 1\npeer = [{{ password = '{SECRET}' }}]",
        f"[cluster]\nasn = 1\npassword = '{SECRET}'\npassword_file = 'x'",
        f"[cluster]\nasn = 1\npassword = '{SECRET}\n",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    """However a password is misplaced, misspelt or malformed, what is printed does not have it."""
    assert SECRET not in repr(problems(text))


def test_a_password_is_in_the_peer_and_in_no_repr() -> None:
    """The session gets its key; whoever prints the configuration does not."""
    loaded = config.parse(THREE_NODES.replace("asn = 64512", f"asn = 64512\npassword = '{SECRET}'"), "f")
    configured = config.effective(loaded, "n1")
    assert {SECRET} == {peer.password for peer in configured.peers}
    assert SECRET not in repr(loaded) + repr(configured)


def test_a_password_file_lies_beside_the_file_and_is_read_at_load(tmp_path: Path) -> None:
    """The first line counts; a missing or empty file is a problem."""
    (tmp_path / "mesh.key").write_text(f"{SECRET}\nsecond line\n")
    (tmp_path / "empty.key").write_text("\n")
    file = str(tmp_path / "f.toml")
    text = "[cluster]\nasn = 1\npassword_file = '{}'"
    assert config.parse(text.format("mesh.key"), file).cluster.password == SECRET
    missing = "cannot be read: No such file or directory"
    assert problems(text.format("absent"), file) == [("cluster.password_file", '"absent"', missing)]
    assert problems(text.format("empty.key"), file) == [
        ("cluster.password_file", '"empty.key"', "its first line not 1 to 80 octets long")
    ]


# ── the example ──────────────────────────────────────────────────────────────


def test_the_example_file_is_up_to_date() -> None:
    """config/bgpmesh.example.toml is what the options' metadata say."""
    assert (CONFIG_DIRECTORY / "bgpmesh.example.toml").read_text(encoding="utf-8") == config.example()


def test_the_example_file_is_valid_as_it_is_and_with_everything_in_it() -> None:
    """What it shows commented out may be taken in: every key that is built has a valid value there."""
    as_it_is = config.parse(config.example(), "f.toml")
    assert "n1" in [node.name for node in as_it_is.nodes]
    lines = [
        line.removeprefix("# ") if " = " in line and not line.startswith("# password_file") else line
        for line in config.example().splitlines()
        if "multihop" not in line  # not together with ttl_security
        and not line.startswith(("# range", "# pods", "# interface"))  # nor these with address
    ]
    remarks = ("in each family", "take FlowSpec")
    whole = config.parse("\n".join(line for line in lines if not line.startswith(remarks)), "f.toml")
    assert whole.neighbours[0].max_prefixes == Limit(1000, 800)
    assert whole.neighbours[0].flowspec == FlowLimit(100, 3600)


def test_the_demo_file_is_three_nodes_of_both_families() -> None:
    """Three nodes, each with the two others as dual-stack peers; the lowest address waits for the others' calls."""
    loaded = config.load(str(CONFIG_DIRECTORY / "demo.toml"))
    shown = {
        node.name: [(p.name, p.is_passive, len(p.families)) for p in config.effective(loaded, node.name).peers]
        for node in loaded.nodes
    }
    assert shown == {
        "n1": [("n2", True, 2), ("n3", True, 2)],
        "n2": [("n1", False, 2), ("n3", True, 2)],
        "n3": [("n1", False, 2), ("n2", False, 2)],
    }
    assert [config.warnings(loaded, name) for name in shown] == [(), (), ()]


FAILSAFES = """
[cluster]
asn = 64512
port = 1790
[node.a]
address = "192.0.2.1"
[peer.tor]
address = "192.0.2.254"
asn = 65001
port = 1791
[policy]
"""


def failsafes(lines: str) -> tuple[list[str], list[str]]:
    """Return the ports that no host endpoint closes, inbound and outbound."""
    options = config.effective(config.parse(FAILSAFES + lines, "f.toml"), "a").around.options
    return list(map(str, options.failsafe_inbound)), list(map(str, options.failsafe_outbound))


def test_bgp_is_failsafe_on_the_ports_that_are_configured() -> None:
    """Ours both ways, those of neighbours outwards; BFD and Calico's list are there too."""
    inbound, outbound = failsafes("")
    both = ["tcp:179", "tcp:2379", "tcp:2380", "tcp:5473", "tcp:6443", "tcp:6666", "tcp:6667", "udp:3784", "udp:4784"]
    assert inbound == ["tcp:22", "udp:68", *both, "tcp:1790"]
    assert outbound == ["udp:53", "udp:67", *both, "tcp:1790", "tcp:1791"]


def test_failsafe_ports_of_the_file_replace_all_others() -> None:
    """Written as Calico writes them; a prefix says whose."""
    ports = '["tcp:22", "sctp:192.0.2.0/24:38412", "udp:[2001:db8::/32]:53", "udp:2001:db8:1::/48:53"]'
    expected = ["tcp:22", "sctp:192.0.2.0/24:38412", "udp:2001:db8::/32:53", "udp:2001:db8:1::/48:53"]
    assert failsafes(f"failsafe_inbound = {ports}\nfailsafe_outbound = []") == (expected, [])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('"22"', "not PROTOCOL:PORT or PROTOCOL:PREFIX:PORT, of tcp, udp or sctp"),
        ('"tcp:0"', "not PROTOCOL:PORT or PROTOCOL:PREFIX:PORT, of tcp, udp or sctp"),
        ('"icmp:8"', "not PROTOCOL:PORT or PROTOCOL:PREFIX:PORT, of tcp, udp or sctp"),
        ('"tcp:65536"', "not PROTOCOL:PORT or PROTOCOL:PREFIX:PORT, of tcp, udp or sctp"),
        ('"tcp:x:22"', "not a prefix"),
        ('"tcp:192.0.2.1/24:22"', "host bits are set; the prefix is 192.0.2.0/24"),
        ("22", "not PROTOCOL:PORT or PROTOCOL:PREFIX:PORT, of tcp, udp or sctp"),
    ],
)
def test_a_failsafe_port_that_is_none_is_refused(value: str, reason: str) -> None:
    """With the value as it was written."""
    with pytest.raises(ConfigError) as caught:
        config.parse(FAILSAFES + f"failsafe_inbound = [{value}]", "f.toml")
    assert caught.value.problems == (Problem("f.toml", "policy.failsafe_inbound", value, reason),)


def test_a_session_between_link_local_addresses_is_of_both_families_and_of_its_link() -> None:
    """Our own address there is the next hop of all that we announce; nobody else's calls are taken at another one."""
    text = """
[cluster]
asn = 64512
[node.n1]
address = "192.0.2.1"
listen = ["::"]
[peer.leaf]
address = "fe80::2%eth1"
source = "fe80::1%eth1"
asn = 65001
bfd = true
"""
    found = config.effective(config.parse(text, "f.toml"), "n1")
    (leaf,) = found.peers
    own = ipaddress.ip_address("fe80::1%eth1")
    assert (leaf.local_address, leaf.listen_address) == (own, own)
    assert leaf.next_hops == ((Family.IPV4, own), (Family.IPV6, own))
    assert [tuple(each)[:4] for each in found.watched] == [("leaf", "fe80::1%eth1", "fe80::2%eth1", 1)]


def test_a_neighbour_by_its_link_is_nowhere_until_it_is_found() -> None:
    """It is seen, waits to be called and has no BFD; then it is a peer between two addresses. Elsewhere it is none."""
    text = """
[cluster]
asn = 64512
topology = "none"
[node.n1]
address = "192.0.2.1"
labels = { rack = "r1" }
[node.n2]
address = "192.0.2.2"
[peer.leaf]
interface = "eth1"
nodes = "rack == 'r1'"
asn = 65001
bfd = true
"""
    loaded = config.parse(text, "f.toml")
    assert config.effective(loaded, "n2").peers == ()
    (nowhere,) = config.effective(loaded, "n1").peers
    assert (str(nowhere.address), nowhere.is_found) == ("fe80::%eth1", False)
    assert (nowhere.local_address, nowhere.is_passive, len(nowhere.families)) == (None, True, 2)
    assert config.effective(loaded, "n1").watched == ()
    ends = ipaddress.ip_address("fe80::1%eth1"), ipaddress.ip_address("fe80::2%eth1")
    for links in ({"eth2": ends}, {}):
        assert config.effective(loaded, "n1", links).peers == (nowhere,)
    found = config.effective(loaded, "n1", {"eth1": ends})
    (leaf,) = found.peers
    assert (leaf.local_address, leaf.address, leaf.is_found, leaf.is_passive) == (*ends, True, False)
    assert leaf.next_hops == ((Family.IPV4, ends[0]), (Family.IPV6, ends[0]))
    assert [tuple(each)[:4] for each in found.watched] == [("leaf", "fe80::1%eth1", "fe80::2%eth1", 1)]
    assert not nowhere.has_same_session(leaf)
