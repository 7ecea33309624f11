"""Who may talk to whom, and by which address: packets, not routes.

Pure up to the text. `selector` is the language that says who is meant. `nat` makes rules and sets out of
pools and floating addresses; `chains` makes text out of chains, and recognises chains in a listing.
`kernel/chains.py`, with `kernel/sets.py`, makes the host's packet filter equal to that; nobody else touches it.

What is ours in there, so that a restarted daemon knows its work without memory:

    chain   a name that begins with `bm-`
    rule    in a chain of ours: all; in a built-in chain: those with our comment, `bm:` and an id
    set     a name that begins with `bm-`

Invariants:
 1. Where nothing is wanted nothing is written, and iptables is not even called.
 2. A set is filled before a chain looks into it, and goes after it.
 3. A rule of somebody else is never deleted, nor moved but by inserting before it.

From what people write to what a packet may do:

    objects, kubernetes, calico, fields   what people write -> the model; refused by name, and field
    store                                 which of it is in force: the last good form of each object
    rule                                  the model: policies, rules, tiers, profiles, sets, host endpoints
    protection                            objects, configuration, workloads, interfaces -> the model -> chains and sets
    model, index, compile, form           the model and who is known -> stacks, classes, chains in one form
    identity, crowds                      who workloads are to other nodes, in hashes; theirs in the sets
    explain                               that form and `nat` walked for one packet: verdict, steps, what would turn it
    preview                               that form before and after a change: what differs, for whom, and whom it cuts
    iptables                              that form as rules: verdict, guard, and whose address a source is
    grammar                               what those rules may be: nothing else is written
    flowspec                              what peers ask for by FlowSpec, and which of it is in force
    flowmatch, flowchain                  that as matches, and as a chain of its own
    attribution                           those rules told back to policies, with what they have counted
"""
