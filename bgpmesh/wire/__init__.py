"""BGP on the wire: bytes to values and back, and the sockets they travel through.

What it hides: every byte of BGP, every type of ExaBGP, every socket. Outside, BGP is messages
(`peering.message`), routes (`events.RoutesReceived`), flow specifications (`events.FlowsReceived`) and batches
(`rib.export.Batch`).

    speaker     calls, reads and writes; no opinion on what is said
      listeners   who calls us, and where
      codec     one for each connection: ExaBGP as protocol engine, called as `foreign` has it
        opening     OPENs, and what two of them agree on
        fastpath    the UPDATEs that need no opinion, in bulk
        reading     attribute sets, with RFC 7606 acted on
        flows       flow specifications
        packing     the UPDATEs that we send
    discovery   who is at the other end of a link, by router advertisements

Invariants:

* Equal attribute bytes of one negotiation class are the same `PathAttributes` object, over all
  connections of the class, while the set is among the last 65,536 or so. Two objects may still say
  the same; `same_as` tells.
* An `Nlri` that leaves here has no bits behind its prefix length.
* Values come in the order of the wire. UPDATEs in a row with one attribute set may be joined; the
  withdrawals of a `Routes` come before its announcements.
* Any bytes give values, and at most one `Garbage` behind which nothing more is decoded; never an
  exception, and never anything that depends on how the bytes were cut.
* What the fast path and ExaBGP's decoder say of an UPDATE is the same (tests/property/test_wire.py).
* An UPDATE that is malformed in a way RFC 7606 forgives says so in `Routes.problem`, and is counted. One that
  announces nothing has nothing to withdraw in its place, so there it ends the session (§5.2).

On purpose otherwise than the letter: an internal path without LOCAL_PREF is accepted (the decision
takes 100, as BIRD does); an UPDATE of a family that was not agreed ends the session in MP_REACH_NLRI
(RFC 4760 §7 allows both) and is ignored in the classic field; what MP_REACH_NLRI has wrong and
RFC 7606 §5.3 leaves to choice ends the session; communities that we put on another's route go out without the Partial
bit, as everybody's do, while a bit that came stays (RFC 4271 §5).

RFC 4271 §4 and §6, RFC 2918, RFC 4724 §2 and §3, RFC 4760, RFC 5492, RFC 6286, RFC 6793, RFC 7606,
RFC 7607, RFC 7911, RFC 8092, RFC 8654, RFC 8955 §4, RFC 8956 §3, RFC 9072; for the sockets RFC 2385 and RFC 5082;
for link-local addresses RFC 2545 §3, RFC 4007 and RFC 8950, and for who has them RFC 4861.
"""

from exabgp.util import dns

# ExaBGP asks the resolver for this host's name while it is imported, for a capability that we never offer. Where the
# resolver does not answer, as when the way to it is a route that we are to learn, a start would wait 10 s for that.
dns.domain = dns.host
