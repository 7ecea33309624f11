"""The numbers: bgpmesh beside other daemons on one machine, in one run, on the same feed.

`python -m tests.bench` (`make bench`) plays every row of `scenario.SCENARIOS` with every class of
`daemons.DAEMONS`, taking turns, and each time in a lab of its own:

    feeder ── veth ── dut: the daemon; its kernel; a watch

The feeder (`feeder.py`) has its UPDATEs encoded before the session comes up. Mostly the clock runs from its first
octet to the last route that the kernel tells of (`watch.py`), or to the last client of a reflector that has
them all (`sink.py`). Then it is checked: what the kernel holds must be the feed, with the right gateway, or the run
has failed and its time is void. README.md has the list.

A daemon more is a class in `daemons.py`, a scenario more is a row in `scenario.py` and, where something new happens
in it, an act in `play.py`.
"""
