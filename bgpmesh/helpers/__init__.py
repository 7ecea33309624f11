"""Programs that speak ExaBGP's text API on their standard output, and what they announce (`[process.*]`).

    edge      starts and ends them, hears what they say, answers
    warden    one for each program, between it and us: ends it when we end

What a line means is read elsewhere (`wire/announcements.py`, which the edge is given), and which prefixes a program may
announce is the engine's matter: a line is taken whole, or refused whole and not taken at all.

Invariants:

* No program keeps the daemon from anything: what it prints is read when there is time, a quarter of a processor at
  most; a line is bounded, and how many prefixes one may announce; what it does not read of our answers is dropped.
* No program, and nothing that it has started, outlives the daemon, however that ends: the warden holds one end of a
  socket whose other end is ours, and ends them when that closes; and the kernel ends the program with the warden.
* A program's routes go when it goes: ends, is taken out of the configuration, or closes its standard output. But the
  end of the daemon withdraws nothing (RFC 4724), neither does what a program says while it is ended with it.

Answers are ExaBGP's: a line `done` or `error` on the program's standard input for each line of its output, but for
`debug ..`, which goes to the log; `disable-ack`, `enable-ack` and `silence-ack` turn them off and on.
"""
