/* Which frames of an interface are ours, and which the kernel keeps.
 *
 * A frame is ours if its address is in `addresses`: all of it if the address is ours alone; only datagrams and segments to
 * a port in `ports` if the kernel has the address too. ARP and neighbour discovery go by the address that they ask for.
 * Whatever cannot be read is the kernel's. A frame goes to the socket of the queue that it came in by, and to the kernel
 * if that queue has none. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define OURS 1   /* ours alone */
#define SHARED 2 /* the kernel has it, too */

struct address {
    union {
        __u8 bytes[16]; /* IPv4 as ::ffff:a.b.c.d */
        __u64 words[2];
    };
};

/* The first few addresses, where they are found without a hash: mostly there are no others. */
#define FIRST 8
struct first {
    struct {
        __u64 words[2], owner;
    } entries[FIRST];
    __u64 count, has_more;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct first);
} first SEC(".maps");

/* By the number of the queue. */
struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 256);
    __type(key, __u32);
    __type(value, __u32);
} sockets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, struct address);
    __type(value, __u32);
} addresses SEC(".maps");

/* A bit for each port: TCP's, then UDP's. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2 * 65536 / 64);
    __type(key, __u32);
    __type(value, __u64);
} ports SEC(".maps");

struct arp {
    __be16 hardware, protocol;
    __u8 hardware_len, protocol_len;
    __be16 operation;
    __u8 sender_mac[6], sender[4], target_mac[6], target[4];
};

struct ipv4 {
    __u8 version_ihl, traffic_class;
    __be16 total_len, identification, flags_fragment;
    __u8 ttl, protocol;
    __be16 checksum;
    __u8 source[4], destination[4];
};

struct ipv6 {
    __be32 version_class_flow;
    __be16 payload_len;
    __u8 next_header, hop_limit;
    __u8 source[16], destination[16];
};

struct solicitation {
    __u8 type, code;
    __be16 checksum;
    __be32 reserved;
    __u8 target[16];
};

struct both_ports {
    __be16 source, destination;
};

static __always_inline __u32 owner(const struct address *key)
{
    __u32 zero = 0;
    const struct first *few = bpf_map_lookup_elem(&first, &zero);
    if (!few)
        return 0;
    for (__u32 i = 0; i < FIRST && i < few->count; i++)
        if (few->entries[i].words[1] == key->words[1] && few->entries[i].words[0] == key->words[0])
            return few->entries[i].owner;
    if (!few->has_more)
        return 0;
    __u32 *owner = bpf_map_lookup_elem(&addresses, key);
    return owner ? *owner : 0;
}

static __always_inline __u32 owner_v4(const __u8 *bytes)
{
    struct address key = { .bytes = { [10] = 0xff, [11] = 0xff } };
    __builtin_memcpy(key.bytes + 12, bytes, 4);
    return owner(&key);
}

static __always_inline __u32 owner_v6(const __u8 *bytes)
{
    struct address key;
    __builtin_memcpy(key.bytes, bytes, 16);
    return owner(&key);
}

static __always_inline int has_port(__u8 protocol, const void *transport, const void *end)
{
    const struct both_ports *both = transport;
    if ((void *)(both + 1) > end || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP))
        return 0;
    __u32 port = bpf_ntohs(both->destination);
    __u32 word = port / 64 + (protocol == IPPROTO_UDP ? 65536 / 64 : 0);
    __u64 *bits = bpf_map_lookup_elem(&ports, &word);
    return bits && (*bits >> (port % 64) & 1);
}

static __always_inline int is_ours(const void *data, const void *end)
{
    const struct ethhdr *ethernet = data;
    const void *rest = ethernet + 1;
    if (rest > end)
        return 0;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
        const struct ipv4 *ip = rest;
        if ((void *)(ip + 1) > end)
            return 0;
        __u32 owner = owner_v4(ip->destination);
        if (owner != SHARED)
            return owner == OURS;
        /* Of fragments only the first has ports; the kernel keeps them all. */
        if (ip->flags_fragment & bpf_htons(0x3fff))
            return 0;
        return has_port(ip->protocol, rest + (ip->version_ihl & 15) * 4, end);
    }
    if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
        const struct ipv6 *ip = rest;
        if ((void *)(ip + 1) > end)
            return 0;
        __u32 owner = owner_v6(ip->destination);
        if (owner == OURS)
            return 1;
        if (owner == SHARED)
            return has_port(ip->next_header, ip + 1, end);
        /* RFC 4861 §4.3: a solicitation goes to a group, and names its target. */
        const struct solicitation *asks = (void *)(ip + 1);
        if (ip->next_header != IPPROTO_ICMPV6 || (void *)(asks + 1) > end || asks->type != 135)
            return 0;
        return owner_v6(asks->target) == OURS;
    }
    if (ethernet->h_proto == bpf_htons(ETH_P_ARP)) {
        const struct arp *arp = rest;
        if ((void *)(arp + 1) > end || arp->protocol != bpf_htons(ETH_P_IP) || arp->protocol_len != 4)
            return 0;
        /* Somebody who uses our address is our business, too (RFC 5227). */
        return owner_v4(arp->target) == OURS || owner_v4(arp->sender) == OURS;
    }
    return 0;
}

SEC("xdp")
int margay_steer(struct xdp_md *frame)
{
    const void *data = (void *)(long)frame->data, *end = (void *)(long)frame->data_end;
    if (!is_ours(data, end))
        return XDP_PASS;
    return bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_PASS);
}

/* Of what the kernel keeps, what we need a copy of where it has our address, too: answers of ARP and of neighbour
 * discovery, and errors of ICMP. What asks is not copied: the kernel answers for both. A filter of a packet socket, so
 * frames may lie in pieces. Gives how many bytes of the frame pass. */
SEC("socket")
int margay_copies(struct __sk_buff *frame)
{
    const int ip_at = sizeof(struct ethhdr);
    struct ethhdr ethernet;
    if (bpf_skb_load_bytes(frame, 0, &ethernet, sizeof ethernet))
        return 0;
    if (ethernet.h_proto == bpf_htons(ETH_P_ARP)) {
        struct arp arp;
        if (bpf_skb_load_bytes(frame, ip_at, &arp, sizeof arp) || arp.operation != bpf_htons(2))
            return 0;
        return owner_v4(arp.target) == SHARED ? -1 : 0;
    }
    __u8 type;
    if (ethernet.h_proto == bpf_htons(ETH_P_IP)) {
        struct ipv4 ip;
        if (bpf_skb_load_bytes(frame, ip_at, &ip, sizeof ip) || ip.protocol != IPPROTO_ICMP)
            return 0;
        if (ip.flags_fragment & bpf_htons(0x1fff) || owner_v4(ip.destination) != SHARED)
            return 0;
        if (bpf_skb_load_bytes(frame, ip_at + (ip.version_ihl & 15) * 4, &type, 1))
            return 0;
        /* RFC 792: unreachable, time exceeded, parameter problem. */
        return type == 3 || type == 11 || type == 12 ? -1 : 0;
    }
    if (ethernet.h_proto == bpf_htons(ETH_P_IPV6)) {
        struct ipv6 ip;
        if (bpf_skb_load_bytes(frame, ip_at, &ip, sizeof ip) || ip.next_header != IPPROTO_ICMPV6)
            return 0;
        if (owner_v6(ip.destination) != SHARED || bpf_skb_load_bytes(frame, ip_at + sizeof ip, &type, 1))
            return 0;
        /* RFC 4443: errors (unreachable, too big, exceeded, parameter); RFC 4861: an advertisement. */
        return (type >= 1 && type <= 4) || type == 136 ? -1 : 0;
    }
    return 0;
}

char LICENSE[] SEC("license") = "MIT";
