"""How operators and their programs talk to the daemon.

`server` is the unix socket: one JSON request a line in, one JSON answer a line out; `client` is its other
end and imports neither asyncio nor the core, so that `bgpmesh status` starts in milliseconds; `http` is
the metrics listener with /metrics, /live, /ready and the page; `views` are plain functions over the
engine that return exactly the JSON that operators rely on, those of sessions in `peers`, of paths and prefixes in
`routes`, of packet policy in `policies`; `tables` is the same for the eye, out of `cells`; `arguments` is what
requests that change something may bring.

Invariants: a client can slow down nobody but itself (limits on lines, descriptors, clients and time); a
request answers with a result or with an error of a named kind, never with silence; the socket belongs to
one daemon, which holds a lock beside it. This file imports nothing, for the client's sake.
"""
