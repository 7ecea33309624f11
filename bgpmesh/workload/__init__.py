"""What lives here: the workloads of this node, their addresses, and the link that each needs.

Pure: nothing in here opens a namespace or knows what a veth is made with; `kernel/links.py` makes a
`LinkSpec` true, `rib` announces what the addresses ask for.

**Endpoint** (`endpoint.py`). One workload: `namespace/name` is its key, on this node and in everything that
people read. `link_of` says what link it needs. The alias in that spec is the whole memory of a link: a daemon
that has lost its state reads it back from the host (`parse_alias`) and knows the workload (`endpoint_of`),
all but its labels, its ports and which namespace its path led to.

**FloatingIps** (`floating.py`). Which external addresses lead to which workloads: the file's before those of
commands; to the first address of its family that the workload has here.

**Addresses** (`pool.py`). Who has which address on this node. Invariants:

 1. An address has one owner on this node, whatever the configuration says today.
 2. An address is given out of the node's own `pod_cidrs`, never out of what a pool reserves, and every address
    of a block is used: the links are routed, so an IPv4 block has no network or broadcast address. The
    first address of an IPv6 block is passed over, being the Subnet-Router anycast address (RFC 4291 §2.6.1).
 3. A released address comes back last: giving goes round the block, so a peer, a firewall or a cache that
    still remembers the old owner is not sent to a new one at once. Where other nodes hear who has an address
    (`cluster.identity`) nobody else gets it as long as one of them may believe the old. No choice is random: the same
    requests give the same addresses.
 4. What is asked for by name may lie outside the node's `pod_cidrs`, also outside every pool (a file need not
    have pools): it is then announced as its own /32 or /128, which wins over the block it was borrowed from by
    its length. The address of a node or of a peer cannot be asked for, but for that of a peer within this node's
    own blocks: there it can only be a workload. A node knows only its own workloads, so asking for an address
    that another node has given out is not noticed here; that is the price of naming one, as it is with a
    static address anywhere.
 5. Cost follows the number of addresses in use, never the size of a block: an IPv6 /64 costs what a /26 does.
"""
