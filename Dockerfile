# The image of a node: bgpmesh in a virtual environment of its own, and the tools that it and its
# operator use. The base may be any Debian with Python 3.11 or later (--build-arg BASE=debian:trixie-slim).
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /src/
COPY bgpmesh /src/bgpmesh
# Not editable: the second stage takes the environment and leaves the source and the build tools behind.
RUN python3 -m venv /opt/bgpmesh \
    && /opt/bgpmesh/bin/pip install --no-cache-dir --disable-pip-version-check /src

FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        iproute2 ipset iptables iputils-ping python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/bgpmesh /opt/bgpmesh
ENV PATH=/opt/bgpmesh/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1
# BGP, the metrics listener, BFD.
EXPOSE 179 9179 3784/udp 4784/udp
ENTRYPOINT ["bgpmesh"]
CMD ["run", "--config", "/etc/bgpmesh/bgpmesh.toml"]
