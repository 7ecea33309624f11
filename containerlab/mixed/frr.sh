# zebra, then bgpd: a bgpd that finds no zebra comes back ten seconds later, and knows no interface until then.
# With names of their own (-N) and -f, so that nothing of an FRR on the same machine is read.
set -e
install -d -o frr -g frr /run/frr /run/frr/mixed
/usr/lib/frr/zebra -d -N mixed -f /dev/null
until [ -S /run/frr/mixed/zserv.api ]; do sleep 0.1; done
exec /usr/lib/frr/bgpd -N mixed -f /etc/frr/mixed/bgpd.conf -A 127.0.0.1 -l 192.0.2.2 --log stdout
