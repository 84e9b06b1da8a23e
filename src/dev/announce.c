#include "dev/announce.h"

#include <string.h>

SCHEMA_DEFINE(announce_ip4, 1, ANNOUNCE_IP4)
SCHEMA_DEFINE(announce_ip6, 1, ANNOUNCE_IP6)
SCHEMA_DEFINE(announce_state, 1, ANNOUNCE_STATE)

#define ETH_BYTES 14u
#define ARP_BYTES 28u
#define IP6_BYTES 40u
#define NA_BYTES 32u /* with the link-layer address option */

enum { TYPE_ARP = 0x0806, TYPE_RARP = 0x8035, TYPE_IP6 = 0x86dd };
enum { ARP_REQUEST = 1, ARP_REPLY = 2, RARP_REQUEST = 3 };
enum { NEXT_ICMP6 = 58, ICMP6_RA = 134, ICMP6_NS = 135, ICMP6_NA = 136 };
enum { NA_ROUTER = 0x80, NA_OVERRIDE = 0x20, OPTION_TARGET_ADDRESS = 2 };

static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static const uint8_t all_nodes_mac[6] = { 0x33, 0x33, 0, 0, 0, 1 };
static const uint8_t all_nodes[16] = { 0xff, 0x02, [15] = 1 };

static unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static void put16(uint8_t *at, unsigned v)
{
    at[0] = (uint8_t)(v >> 8);
    at[1] = (uint8_t)v;
}

static void put_eth(uint8_t *frame, const uint8_t to[6], const uint8_t from[6], unsigned type)
{
    memset(frame, 0, ANNOUNCE_FRAME_MAX);
    memcpy(frame, to, 6);
    memcpy(frame + 6, from, 6);
    put16(frame + 12, type);
}

/* ip4 NULL = unknown, as in RARP, which asks for it. */
static size_t put_arp(uint8_t *frame, unsigned type, unsigned operation, const uint8_t mac[6],
                      const uint8_t target_mac[6], const uint8_t *ip4)
{
    put_eth(frame, broadcast, mac, type);
    uint8_t *arp = frame + ETH_BYTES;
    put16(arp, 1);          /* Ethernet */
    put16(arp + 2, 0x0800); /* IPv4 */
    arp[4] = 6;
    arp[5] = 4;
    put16(arp + 6, operation);
    memcpy(arp + 8, mac, 6);
    if (target_mac)
        memcpy(arp + 18, target_mac, 6);
    if (ip4) {
        memcpy(arp + 14, ip4, 4);
        memcpy(arp + 24, ip4, 4);
    }
    return ANNOUNCE_ETH_MIN;
}

size_t announce_rarp(uint8_t frame[ANNOUNCE_FRAME_MAX], const uint8_t mac[6])
{
    return put_arp(frame, TYPE_RARP, RARP_REQUEST, mac, mac, NULL);
}

size_t announce_arp(uint8_t frame[ANNOUNCE_FRAME_MAX], const uint8_t mac[6], const uint8_t ip4[4])
{
    return put_arp(frame, TYPE_ARP, ARP_REQUEST, mac, NULL, ip4);
}

/* RFC 1071 over big-endian words; `len` is even here. */
static uint32_t add_words(uint32_t sum, const uint8_t *at, size_t len)
{
    for (size_t i = 0; i < len; i += 2)
        sum += get16(at + i);
    return sum;
}

/* RFC 8200, 8.1: over a pseudo-header of addresses, length and protocol, then the message. */
static unsigned icmp6_checksum(const uint8_t *ip6, size_t len)
{
    uint32_t sum = add_words(0, ip6 + 8, 32) + (uint32_t)len + NEXT_ICMP6;
    sum = add_words(sum, ip6 + IP6_BYTES, len);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

size_t announce_na(uint8_t frame[ANNOUNCE_FRAME_MAX], const uint8_t mac[6],
                   const uint8_t address[16], bool router)
{
    put_eth(frame, all_nodes_mac, mac, TYPE_IP6);
    uint8_t *ip6 = frame + ETH_BYTES, *na = ip6 + IP6_BYTES;
    ip6[0] = 0x60;
    put16(ip6 + 4, NA_BYTES);
    ip6[6] = NEXT_ICMP6;
    ip6[7] = 255; /* RFC 4861, 7.1.2: anything else is dropped */
    memcpy(ip6 + 8, address, 16);
    memcpy(ip6 + 24, all_nodes, 16);
    na[0] = ICMP6_NA;
    na[4] = NA_OVERRIDE | (router ? NA_ROUTER : 0);
    memcpy(na + 8, address, 16);
    na[24] = OPTION_TARGET_ADDRESS;
    na[25] = 1; /* in units of 8 bytes */
    memcpy(na + 26, mac, 6);
    put16(na + 2, icmp6_checksum(ip6, NA_BYTES));
    return ETH_BYTES + IP6_BYTES + NA_BYTES;
}

bool announce_wants(const uint8_t *frame, size_t len)
{
    if (len < ETH_BYTES)
        return false;
    unsigned type = get16(frame + 12);
    return type == TYPE_ARP ||
           (type == TYPE_IP6 && len > ETH_BYTES + 6 && frame[ETH_BYTES + 6] == NEXT_ICMP6);
}

/* Adds an address to a list in order of age; the oldest gives way. */
static void learn(uint8_t *list, uint32_t *count, size_t size, const uint8_t *address)
{
    for (uint32_t i = 0; i < *count; i++)
        if (memcmp(list + i * size, address, size) == 0)
            return;
    if (*count == ANNOUNCE_ADDRESSES)
        memmove(list, list + size, --*count * size);
    memcpy(list + (*count)++ * size, address, size);
}

/* Unspecified, loopback, multicast and broadcast are nobody's own. */
static bool usable_ip4(const uint8_t ip4[4])
{
    return ip4[0] != 0 && ip4[0] != 127 && ip4[0] < 224;
}

static bool usable_ip6(const uint8_t ip6[16])
{
    static const uint8_t zero[15];
    return ip6[0] != 0xff && !(memcmp(ip6, zero, 15) == 0 && ip6[15] <= 1);
}

static void snoop_arp(struct announce_state *state, const uint8_t mac[6], const uint8_t *arp,
                      size_t len)
{
    if (len < ARP_BYTES || get16(arp) != 1 || get16(arp + 2) != 0x0800 || arp[4] != 6 ||
        arp[5] != 4)
        return;
    if (get16(arp + 6) != ARP_REQUEST && get16(arp + 6) != ARP_REPLY)
        return;
    if (memcmp(arp + 8, mac, 6) == 0 && usable_ip4(arp + 14))
        learn(state->ip4[0].address, &state->ip4_count, sizeof(state->ip4[0]), arp + 14);
}

static void snoop_icmp6(struct announce_state *state, const uint8_t *ip6, size_t len)
{
    const uint8_t *icmp = ip6 + IP6_BYTES, *own;
    if (len < IP6_BYTES + 24 || ip6[6] != NEXT_ICMP6 || ip6[7] != 255)
        return; /* a hop limit below 255 was forwarded from elsewhere */
    switch (icmp[0]) {
    case ICMP6_RA:
        state->router = 1;
        return;
    case ICMP6_NS:
        own = ip6 + 8; /* unspecified while the address is only being tried (RFC 4862, 5.4.2) */
        break;
    case ICMP6_NA:
        own = icmp + 8;
        state->router = icmp[4] & NA_ROUTER ? 1 : 0;
        break;
    default:
        return;
    }
    if (usable_ip6(own))
        learn(state->ip6[0].address, &state->ip6_count, sizeof(state->ip6[0]), own);
}

void announce_snoop(struct announce_state *state, const uint8_t mac[6], const uint8_t *frame,
                    size_t len)
{
    if (!announce_wants(frame, len) || memcmp(frame + 6, mac, 6) != 0)
        return;
    if (get16(frame + 12) == TYPE_ARP)
        snoop_arp(state, mac, frame + ETH_BYTES, len - ETH_BYTES);
    else
        snoop_icmp6(state, frame + ETH_BYTES, len - ETH_BYTES);
}
