# GoBGP takes its own routes by its API alone, so they follow as soon as it answers.
gobgpd -f /etc/gobgp/gobgp.toml -p --api-hosts=127.0.0.1:50051 --pprof-disable &
until gobgp global rib add 10.244.4.0/26 nexthop 192.0.2.4 -a ipv4; do sleep 0.2; done
until gobgp global rib add fd00:10:244:4::/112 nexthop 2001:db8::4 -a ipv6; do sleep 0.2; done
wait
