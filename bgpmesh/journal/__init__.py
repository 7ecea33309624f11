"""The journal: every event that the engine handled and all else that its answers depend on, so that a replay is exact.

It is text. A head says what it is; then each line is a JSON array that begins with its kind:

    {"journal": 1, "bgpmesh": "0.1.0", "node": "n1", "epoch": 1.7e9, "dropped": 0}
    ["start", {..Configured..}, ["n2"], false, {}]    the constructor's arguments: peers that were held,
                                                      adopt_endpoints, what else is known of the last life
    ["RoutesReceived", 12.5, {..}]                    `handle`, with `now`; any Event, by its name
    ["jitter", 0.25]                                  a number that `jitter` answered to the line above
    ["work", 12.5, 20000]                             `work`, with `now` and the slice
    ["take", "n2", 1000]                              `take`: a peer's batches were pulled, so many prefixes at the most
    ["took", "fib", "5:GAr0AQ.."]                     an edge put these keys of a Delta in flight

`epoch` is the Unix time of the engine's second 0; `dropped` counts the lines that were lost behind `start`. Values are
written as their annotations say, without the fields that are as by default; so a new event, value or field needs
no line here, and an old journal reads as long as new fields have defaults. Prefixes are joined into one text.

Rules:
 1. A line is noted before the engine acts on it (in a recording: is on disk): the last one of a crash is its cause.
 2. What a class keeps out of its repr is a secret. It is written as `secret-1`, `secret-2`, ..: equal or not, no more.
 3. Memory is bounded: the oldest lines go. So is the recording on disk, which ends and says so.
 4. Where a class compares by identity, the journal keeps it: objects that were one are one again.

`record.Journal` keeps it, `story.read` reads it. This module imports nothing: a daemon has no use for the reader.
"""
