"""BFD's own process: sockets and timers around `peering.bfd`, with one heap and next to no imports.

    python -m bgpmesh.bfd_agent SOCKET              in the foreground, as a service or container of its own
        --detach        in the background, in a session of its own: how the daemon starts it
        --listener FD   SOCKET is bound already, and this descriptor listens there
        --take-over     have everything from the agent that answers at SOCKET, another version: sessions and sockets
        --stay          do not end although nobody wants anything

A thread of the daemon would share its interpreter lock, and packets would leave up to half a second late while routes
are learnt. A process of its own also outlives the daemon: neighbours see the path alive while that restarts.

The daemon says what is to be watched, and hears what has become of it, one JSON object a line, on a unix socket beside
its control socket (a name in the file system, since abstract ones do not cross containers):

    <- {"protocol": 1, "version": "0.1.0", "pid": 71, "scheduling": "SCHED_RR 1"}
    -> {"wanted": [["n2", "192.0.2.1", "192.0.2.2", 0, 300, 3]], "stay_s": 120}     all of it, each time
    <- {"report": {..}}                     of each session once it is wanted, and when it changes (peering.bfd.Report)
    <- {"problems": ["192.0.2.1 port 3784: address already in use"], "discarded": {"too short": 3}}     when they change
    -> {"hand_over": 1}                     by the next version, see `_hand_over`

It ends when nothing is wanted any more, when nobody has wanted anything for `stay_s` since the last daemon has gone, or
when its socket is no longer where daemons look for it. Each session then says AdminDown for a detection time, which no
neighbour takes for a failure (RFC 5880 §6.8.16).

What may happen and must harm nobody: another agent that has our port (nothing is sent then, and its sessions go on),
a flood (input is read in portions, and a process that never rests loses its privilege in the scheduler), a daemon that
does not read (it hears the newest state when it does), a machine too busy to run us (what came meanwhile is read before
anybody is given up, and who was not heard then has an interval more), a core that the kernel or the host keeps from us
(a second thread, on other cores, does what is due), an address that is not there yet (tried again).
"""
