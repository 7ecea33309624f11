#!/bin/sh
# Attaches the network namespace that this container was started in to its node, and keeps it attached.
#
# The container has no network of its own and no privilege. It shares the folder of the node's control
# socket; the command opens the namespace here and hands the descriptor over. When the node's container
# is started anew, the link is gone with the node's namespace, and is asked for again.
set -u
name=$1
trap 'bgpmesh workload del "$name"; exit 0' TERM INT
while :; do
    if [ ! -e /sys/class/net/eth0 ] && listed=$(bgpmesh workload list --json 2> /dev/null); then
        case $listed in
            *"\"$name\""*) bgpmesh workload del "$name" ;; # attached to a namespace that is no more
        esac
        bgpmesh workload add "$name" --netns /proc/self/ns/net --label app=web
    fi
    sleep 1 &
    wait $! # a signal ends the wait, not the sleep
done
