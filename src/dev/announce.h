/*
 * Telling a network that a guest now lives behind another port.
 *
 * Pure functions over frames: which addresses are the guest's (learnt from what it sends), and the
 * frames that claim them after a move. Frames are Ethernet, without check sequence, untagged.
 */
#pragma once
#include "base/compiler.h"
#include "state/schema.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ANNOUNCE_ADDRESSES 8     /* of each family */
#define ANNOUNCE_SNOOP_BYTES 96u /* no more of a frame is looked at */
#define ANNOUNCE_FRAME_MAX 86u   /* the advertisement */
#define ANNOUNCE_ETH_MIN 60u

#define ANNOUNCE_IP4(F, T) F(T, u8s, address, 4)
#define ANNOUNCE_IP6(F, T) F(T, u8s, address, 16)
SCHEMA_STRUCT(announce_ip4, ANNOUNCE_IP4);
SCHEMA_STRUCT(announce_ip6, ANNOUNCE_IP6);

/* The guest's own addresses, oldest first. */
#define ANNOUNCE_STATE(F, T)                                     \
    F(T, u8, router) /* the guest forwards IPv6 (RFC 4861, R) */ \
    F(T, list, ip4, announce_ip4, ANNOUNCE_ADDRESSES)            \
    F(T, list, ip6, announce_ip6, ANNOUNCE_ADDRESSES)
SCHEMA_STRUCT(announce_state, ANNOUNCE_STATE);

/* True: a frame that starts like this (21 bytes suffice) may teach something: ARP, ICMPv6. */
bool announce_wants(const uint8_t *frame, size_t len);

/* Learns from a frame the guest with this MAC sends. Only statements that bind an address to the
 * sender count: ARP senders, neighbour advertisements, solicitations with a source. Source
 * addresses of IP packets do not: a guest that routes sends packets of others. */
void announce_snoop(struct announce_state *state, const uint8_t mac[6], const uint8_t *frame,
                    size_t len);

/* Each writes one frame and returns its length.
 * RARP request-reverse for the own address (RFC 903): any broadcast teaches switches, this one
 * bothers nobody. */
size_t announce_rarp(uint8_t frame[ANNOUNCE_FRAME_MAX], const uint8_t mac[6]);
/* ARP announcement (RFC 5227, 3). */
size_t announce_arp(uint8_t frame[ANNOUNCE_FRAME_MAX], const uint8_t mac[6], const uint8_t ip4[4]);
/* Unsolicited neighbour advertisement to all nodes (RFC 4861, 7.2.6). */
size_t announce_na(uint8_t frame[ANNOUNCE_FRAME_MAX], const uint8_t mac[6],
                   const uint8_t address[16], bool router);
