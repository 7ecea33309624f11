"""Who we talk to, and how the conversation goes. Pure: no socket, no clock.

What is here:

* `peer`     Peer: identity, role and options of one neighbour as this node sees it; frozen, so two
             equal Peers need no new session.
* `ranges`   neighbours that are known by where they call from -> the Peer that one of them is.
* `options`  what an operator writes of cluster, nodes and neighbours, with what the reader of the file needs to know.
* `mesh`     the nodes of a cluster file -> the Peers one of them should have.
* `message`  BGP messages as values, and what two OPENs agreed on. An UPDATE is not among them: it is a
             batch of routes and goes past the session to the RIB.
* `session`  Session: the state machine of RFC 4271 §8. Events and `now` in, outputs out.
* `connection` one of its TCP connections: its timers, and which of two that collide stays.
* `offer`    what our OPEN offers a peer.
* `stale`    the clocks of what is kept of a peer that is away.
* `refresh`  which families a peer is saying again, and until when (RFC 7313).
* `bfd`      Session: the state machine of RFC 5880 §6.8 in the same way, and what the process that runs it is told and
             tells (`bfd_agent`).

What it hides: which of two connections lives, when something is due, when paths of a lost peer may stay.
Nobody else decides any of these. Bytes, capabilities and negotiation are the wire's; a Session sees
the `Negotiated` that came of them, with the refusal if there is one.

One peer, over its life:

    start ──▶ Connect ──TCP──▶ OpenSent ──OPEN──▶ OpenConfirm ──KEEPALIVE──▶ Established
      ▲  ╲       │ refused         │ any fault: NOTIFICATION, hang up            │
      │   ╲      ▼                 ▼                                             │
      │    ──▶ Active ◀────────────┴──────────────── WentDown(retain) ◀──────────┘
      │    passive, or waiting 1 to 8 s for the next call; calls of the peer are always answered
    Idle ◀── stop

Invariants, each a property test:

1. No order of events raises. The core never trusts the wire to be sensible.
2. At most two connections, at most one established; each ends established, hung up or lost.
3. `Established` and `WentDown` alternate. Paths are retained only where both sides agreed on graceful
   restart, and over a NOTIFICATION only where both keep them over one (N bit) and it is no hard reset; every retained
   family is dropped by the next `WentDown` or `Established`, or swept once by `StaleExpired`.
4. `next_wakeup` names the second of the next thing due; a `tick` then does it and names a later one.

Time is the caller's monotonic second and jitter the caller's function, so that a test may live through
a day in a millisecond. Nothing here logs: `last_error`, the reason in `WentDown` and the `transitions`
are what views, notes and metrics are made of.

Answers to RFC 4271 §6 and §8 (errors, machine), §6.8 with RFC 6286 (collision), RFC 4486 and RFC 9003
(Cease), RFC 6608 (machine errors), RFC 4724 (graceful restart, both roles), RFC 8538 (the same over a NOTIFICATION,
hard reset), RFC 9494 (long-lived graceful restart), RFC 5492 (capabilities), RFC 7313 (enhanced route refresh),
RFC 9687 (send hold timer).
"""
