"""Linux: routes, nexthop objects and links made equal to what the core wants.

The door: `fib.FibEdge` makes the routes of this network namespace equal to two Deltas, one of routes
(prefix to `Target`) and one of next hops (BGP next hop to `Resolution`); `links.LinksEdge` does the
same for the workloads' links, and `chains.ChainsEdge` for iptables' chains and the sets (`sets`) that they look into,
whose rules' counters `counters` reads; `nflog.NflogDoor` hears of what some of those rules drop;
`conntrack.ConnectionsEdge` deletes tracked connections that lead elsewhere than they should;
`uninstall` of each takes away what is ours. Inside, `netlink` is the socket, `routes` the bytes, `bursts` many of them
in few sends, `mirror` what the kernel has as far as we know and hear, `nexthops` what a target is there, with the
objects and groups that it takes, `table` the thread's part: it writes, and looks again where it cannot be sure;
`nfnetlink` asks netfilter's subsystems. Nobody outside knows a netlink message, an interface index (but as a number to
hand back), or a nexthop id.

What is ours, so that a restarted daemon knows its work without memory:

    route           rtm_protocol 77, in our table, at our metric
    nexthop object  nh_protocol 77, id a hash of the BGP next hop (from 2^30)
    nexthop group   nh_protocol 77, id a hash of its members and weights (from 3 * 2^29)
    link            the name's prefix and 11 characters of a hash, and our alias on it
    chain, set      a name that begins with `bm-`; a rule of ours in a built-in chain has an id as its comment

Invariants:
 1. Nothing is flushed. What is found at start stays until it is known to be unwanted, and what is
    right already is not written again.
 2. A route of somebody else that was there first is never overwritten; ours is refused as
    "a foreign route has its place" until it is gone. One that took the place of ours is set right.
 3. Next hops are written before the routes that use them, and deleted after; a group goes when its
    last route does. When the way to a node changes, one message moves all its routes.
 4. Each refusal belongs to one prefix, link or next hop, in the kernel's words, and stops no other.
 5. The event loop never waits for the kernel: one thread has the route sockets.
 6. What the kernel does in silence (a link that goes down takes routes and objects with it) is
    found by reading back: a tenth of a second after anything suspicious, and each minute.

Where the kernel has no nexthop objects, or an id is taken, the gateways stand in the routes themselves.

RFC 4271 §9.1.2.1 asks that a next hop be resolved before it is used: what it resolves to comes in, as
`Resolution`; the routes it may resolve in go out, as `HostRoute`. RFC 4724 §4.1 asks that forwarding
state survive a restart: invariant 1.
"""
