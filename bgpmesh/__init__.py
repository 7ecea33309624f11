"""bgpmesh: a BGP route-distribution daemon with a routing core for container networks."""

__version__ = "0.1.0"
