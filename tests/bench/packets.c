/* What a packet costs on its way through a node: it is sent and forwarded in one go, on one core, burst by burst.

       packets send SOURCE DESTINATION PORT BURSTS PER_BURST new|established      prints ns of each burst, a packet
       packets answer PORT                                                       answers one packet, then reads no more
       packets flush                                                             forgets all tracked connections

   Raw UDP, so that both kinds cost the sender the same: each packet from another port, or all from the port that
   was answered. What nobody reads is dropped at the full socket. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAYLOAD = 18, FIRST_PORT = 1024, PORTS = 64000, WARM = 8, PATIENCE_MS = 10000 };

struct packet {
    struct iphdr ip;
    struct udphdr udp;
    char payload[PAYLOAD];
} __attribute__((packed));

static void die(const char *what) {
    perror(what);
    exit(1);
}

static struct sockaddr_in place(const char *address, int port) {
    struct sockaddr_in found = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (address && inet_pton(AF_INET, address, &found.sin_addr) != 1)
        die("address");
    return found;
}

static int bound(struct sockaddr_in at) {
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    if (udp < 0 || bind(udp, (struct sockaddr *)&at, sizeof at))
        die("bind");
    return udp;
}

/* Have the one connection of the established kind seen in both directions. */
static void greet(struct sockaddr_in from, struct sockaddr_in to) {
    int udp = bound(from), left = PATIENCE_MS;
    struct pollfd waiting = {.fd = udp, .events = POLLIN};
    do {
        if (left <= 0)
            die("no answer");
        if (sendto(udp, "", 1, 0, (struct sockaddr *)&to, sizeof to) < 0)
            die("sendto");
        left -= 100;
    } while (!poll(&waiting, 1, 100));
    close(udp);
}

static int by_size(const void *one, const void *two) {
    double difference = *(const double *)one - *(const double *)two;
    return (difference > 0) - (difference < 0);
}

/* Stay on one core, the last of those there are. */
static void settle(void) {
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof all, &all))
        die("affinity");
    for (int core = CPU_SETSIZE - 1; core >= 0 && !CPU_COUNT(&one); core--)
        if (CPU_ISSET(core, &all))
            CPU_SET(core, &one);
    if (sched_setaffinity(0, sizeof one, &one))
        die("affinity");
}

static int send_all(char **words) {
    int port = atoi(words[2]), bursts = atoi(words[3]), per_burst = atoi(words[4]), is_new = !strcmp(words[5], "new");
    struct sockaddr_in from = place(words[0], FIRST_PORT), to = place(words[1], port);
    settle();
    if (!is_new)
        greet(from, to);
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (raw < 0)
        die("socket");
    struct packet *packets = calloc(per_burst, sizeof *packets);
    struct mmsghdr *messages = calloc(per_burst, sizeof *messages);
    struct iovec *parts = calloc(per_burst, sizeof *parts);
    double *took = calloc(bursts, sizeof *took);
    for (int number = 0; number < per_burst; number++) {
        packets[number] = (struct packet){
            .ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .saddr = from.sin_addr.s_addr,
                   .daddr = to.sin_addr.s_addr, .tot_len = htons(sizeof *packets)},
            .udp = {.source = htons(FIRST_PORT), .dest = htons(port), .len = htons(8 + PAYLOAD)}};
        parts[number] = (struct iovec){&packets[number], sizeof *packets};
        messages[number].msg_hdr = (struct msghdr){.msg_name = &to, .msg_namelen = sizeof to,
                                                   .msg_iov = &parts[number], .msg_iovlen = 1};
    }
    unsigned flow = 0;
    for (int burst = -WARM; burst < bursts; burst++) {
        struct timespec start, end;
        for (int number = 0; is_new && number < per_burst; number++)
            packets[number].udp.source = htons(FIRST_PORT + flow++ % PORTS);
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (int sent = 0, more; sent < per_burst; sent += more)
            if ((more = sendmmsg(raw, messages + sent, per_burst - sent, 0)) < 0)
                die("sendmmsg");
        clock_gettime(CLOCK_MONOTONIC, &end);
        if (burst >= 0)
            took[burst] = ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / per_burst;
    }
    qsort(took, bursts, sizeof *took, by_size);
    for (int burst = 0; burst < bursts; burst++)
        printf("%.1f\n", took[burst]);
    return 0;
}

static int answer(int port) {
    char byte[64];
    int udp = bound(place(NULL, port)), size = 1;
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    setsockopt(udp, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (recvfrom(udp, byte, sizeof byte, 0, (struct sockaddr *)&from, &length) < 0)
        die("recvfrom");
    if (sendto(udp, "", 1, 0, (struct sockaddr *)&from, length) < 0)
        die("sendto");
    return pause();
}

static int flush(void) {
    struct {
        struct nlmsghdr head;
        struct nfgenmsg body;
    } asked = {{sizeof asked, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, 1, 0},
               {AF_UNSPEC, NFNETLINK_V0, 0}};
    char said[4096];
    int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    if (netlink < 0 || send(netlink, &asked, sizeof asked, 0) < 0 || recv(netlink, said, sizeof said, 0) < 0)
        die("flush");
    return -((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)said))->error;
}

int main(int argc, char **argv) {
    if (argc == 8 && !strcmp(argv[1], "send"))
        return send_all(argv + 2);
    if (argc == 3 && !strcmp(argv[1], "answer"))
        return answer(atoi(argv[2]));
    return argc == 2 && !strcmp(argv[1], "flush") ? flush() : 2;
}
