"""What we believe: the paths of all peers, the one chosen for each prefix, and what follows from it.

The door is `rib.Rib`, and in it `ways` and `host` for how this host gets anywhere; `export.Batch` is what it hands to
the wire, and its two Deltas (`fib`, `next_hops`) are what it hands to the kernel. Nothing here knows a socket, a clock
or a kernel.

    rib.py        what is told goes through the parts below, and what follows from it into the Deltas
    adjribin.py   what one peer told us: by prefix or by path, what of it is stale, how much it may be
    importing.py  what an attribute set that came becomes: filters, whose word it is, whether it has been here before
    locrib.py     the candidates of each prefix, decisions remembered, what is selected
    decision.py   which path is best: a table of steps, and the name of the step that put each other out
    candidate.py  the paths of a prefix as operators see them
    claimants.py  who may say of an address which workload has it
    nexthop.py    whether a next hop can be reached, by what link and gateway, at what cost, and why not
    ways.py       all next hops, when they are looked at anew, and which are in use
    rule.py       filters as configured: rules, their terms and changes
    filter.py     the same compiled: a filter sees one attribute set and its batch
    aspath.py     expressions over AS_PATH
    groups.py     which update groups there are, who is in which, who is to be asked to take
    export.py     one of them: what its peers are to hear, and what they have been told
    view.py       the rules of a session: what a peer may hear, and as what
    numbers.py    our own identifiers of paths, where a peer takes several of a prefix

What it hides: that a batch is a dict of byte keys to one shared Path; that decisions are remembered
by combination of candidates; that peers with the same view share one table of what they were told,
one log of packed batches, and each batch's bytes.

Invariants, each with a property test (`tests/property/test_rib.py`):
 1. What is selected, wanted and told depends on the present inputs only: not on their order, nor on how
    `work(limit)` and `take` were sliced.
 2. A peer never hears its own route, nor one that names it as ORIGINATOR.
 3. `next_hops` wants exactly the next hops of what `fib` wants, and of nothing else.
 4. Nothing is written for a prefix that this host has connected.
 5. Resolution never goes through a route that needs the next hop in question, however far along.
 6. What is said of an address is in `said` only from the node in whose block it is, and goes to nodes alone
    (`tests/property/test_identity.py`).
 7. Filters are no part of a session. What a change of them means follows from what was received and selected, and is
    told and written once, where it differs (`tests/property/test_cluster_filters.py`).

What costs what: a prefix is held once in its peer's table, once in the candidates, once in the
selection, once in the Fib and once for each update group, always the same key object (by path a table and a group
have their own: some 100 bytes more); an attribute set costs one Path for each peer. A slow peer costs memory by
prefixes, not by churn.

Answers to RFC 4271 §5 and §9, RFC 4456 §6, §8 and §9, RFC 4724 §4.1 and §4.2 (stale paths, deferred selection), RFC
1997, RFC 2918, RFC 4360 §2, RFC 7911, RFC 7999, RFC 8212, RFC 8326, RFC 8538 §4.1, RFC 8654 §4, RFC 9234 §5, RFC 9494
§4. A path that is stale when its peer goes down a second time stays stale, so that a neighbour killed twice before it
was in sync loses nothing; the session's clock bounds it. One kept after a hold timer expired loses to any that is not
stale, by our own choice: it may be the path that has failed, and nobody has said that what is behind it restarts.
"""
