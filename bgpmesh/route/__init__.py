"""The vocabulary: what BGP talks about.

Pure values, no behaviour that needs the world: prefixes as byte keys (`nlri`), attribute sets
(`attributes`), what nodes say of addresses in them (`claim`), where a path came from and what a route resolves to
(`path`). Everything else in the package speaks in these words. Answers to RFC 4271 §4.3 and §5, RFC 4760, RFC 4456,
RFC 8092.
"""
