/* The kernel's own limit: COUNT routes by one nexthop id, added and then deleted, PER_CALL a system call.
 *
 *     yardstick FAMILY FIRST COUNT PER_CALL NEXTHOP_ID
 *
 * FAMILY is 4 or 6, FIRST the first single address. Only the last message of a call asks for an acknowledgement: the
 * kernel handles a whole call before it returns, and tells of a failure without being asked. Prints seconds for
 * adding and for deleting; the routes' protocol is 77 and their metric 32.
 */
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static const unsigned char PROTOCOL = 77;
static const unsigned METRIC = 32;

static void put(char *message, unsigned short type, const void *value, unsigned short size) {
    struct nlmsghdr *head = (struct nlmsghdr *)message;
    struct rtattr *attribute = (struct rtattr *)(message + NLMSG_ALIGN(head->nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), value, size);
    head->nlmsg_len = NLMSG_ALIGN(head->nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Write one message; returns its length. */
static unsigned encode(char *message, int kind, unsigned sequence, int family, const unsigned char *address,
                       unsigned nexthop) {
    struct nlmsghdr *head = (struct nlmsghdr *)message;
    struct rtmsg *route = NLMSG_DATA(head);
    int width = family == AF_INET ? 4 : 16;
    memset(message, 0, NLMSG_LENGTH(sizeof *route));
    head->nlmsg_len = NLMSG_LENGTH(sizeof *route);
    head->nlmsg_type = kind;
    head->nlmsg_flags = NLM_F_REQUEST | (kind == RTM_NEWROUTE ? NLM_F_CREATE | NLM_F_REPLACE : 0);
    head->nlmsg_seq = sequence;
    route->rtm_family = family;
    route->rtm_dst_len = width * 8;
    route->rtm_table = RT_TABLE_MAIN;
    route->rtm_protocol = PROTOCOL;
    route->rtm_scope = kind == RTM_NEWROUTE ? RT_SCOPE_UNIVERSE : RT_SCOPE_NOWHERE;
    route->rtm_type = kind == RTM_NEWROUTE ? RTN_UNICAST : 0;
    put(message, RTA_DST, address, width);
    put(message, RTA_PRIORITY, &METRIC, 4);
    if (kind == RTM_NEWROUTE)
        put(message, RTA_NH_ID, &nexthop, 4);
    return head->nlmsg_len;
}

static void next(unsigned char *address, int width) {
    while (width-- && !++address[width])
        ;
}

static double run(int netlink, int kind, int family, const unsigned char *first, unsigned count, unsigned per_call,
                  unsigned nexthop) {
    static unsigned sequence;
    unsigned char address[16];
    char answer[8192], *burst = malloc((size_t)per_call * 128);
    struct timespec from, to;
    memcpy(address, first, 16);
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (unsigned done = 0; done < count;) {
        char *end = burst, *last = burst;
        for (unsigned number = 0; number < per_call && done < count; number++, done++) {
            last = end;
            end += encode(end, kind, ++sequence, family, address, nexthop);
            next(address, family == AF_INET ? 4 : 16);
        }
        ((struct nlmsghdr *)last)->nlmsg_flags |= NLM_F_ACK;
        if (send(netlink, burst, end - burst, 0) < 0)
            die("send");
        if (recv(netlink, answer, sizeof answer, 0) < 0)
            die("recv");
        struct nlmsgerr *error = NLMSG_DATA((struct nlmsghdr *)answer);
        if (error->error) {
            fprintf(stderr, "route refused: %s\n", strerror(-error->error));
            exit(1);
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    free(burst);
    return (to.tv_sec - from.tv_sec) + (to.tv_nsec - from.tv_nsec) / 1e9;
}

int main(int argc, char **argv) {
    unsigned char first[16] = {0};
    if (argc != 6)
        return 2;
    int family = atoi(argv[1]) == 4 ? AF_INET : AF_INET6, size = 4 << 20;
    unsigned count = atoi(argv[3]), per_call = atoi(argv[4]), nexthop = atoi(argv[5]);
    int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    if (netlink < 0 || inet_pton(family, argv[2], first) != 1)
        die("socket");
    setsockopt(netlink, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    double add = run(netlink, RTM_NEWROUTE, family, first, count, per_call, nexthop);
    double delete = run(netlink, RTM_DELROUTE, family, first, count, per_call, nexthop);
    printf("%.6f %.6f\n", add, delete);
    return 0;
}
