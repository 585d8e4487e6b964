/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Headers → struct packet, once. Nothing behind the parser looks at the packet.
 * Every read is bounds-checked by the kernel (ctx_load); a failed read means a
 * truncated packet, which is the stack's to drop.
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "address.h"
#include "tpx_abi.h"

#define MAX_IPV6_EXTENSIONS 8
#define IPV4_OPTIONS_MAX 40
#define NEXTHDR_AUTH 51
#define NEXTHDR_ICMPV6 58

/* The transport header of TCP in the units of a fragment's offset, rounded up. */
#define TCP_HEADER_OCTETS 3

enum packet_kind {
  PACKET_TCP,            /* flow and tcp are complete */
  PACKET_UDP,            /* flow and udp are complete */
  PACKET_OTHER,          /* another protocol; ports only for UDP-Lite */
  PACKET_ICMP_ERROR,     /* quoted is complete */
  PACKET_LATER_FRAGMENT, /* no ports in it; frag_id set */
  PACKET_OPAQUE,         /* ports out of reach: tiny first fragment, endless header chain */
  /* Of the last two flow.proto may be TPX_PROTO_UNKNOWN. */
};

struct packet {
  struct tpx_flow flow;
  struct tpx_link link; /* filled when the policy is asked */
  union {
    struct iphdr v4;
    struct ipv6hdr v6;
  } ip; /* copy of the fixed header, for the SYN cookie check */
  union {
    struct tcphdr tcp;
    struct udphdr udp;
    struct tpx_flow
        quoted; /* of an ICMP error: the TCP or UDP packet, turned round, as its peer would send */
  };
  __u32 end; /* of the datagram; what follows is padding */
  __be32 frag_id;
  __u16 counter; /* of the rule, where is_ruled */
  __u8 worker;   /* that the rule's flow goes to, or TPX_NO_WORKER; same */
  __u8 action;   /* of the rule, same */
  __u8 kind;     /* enum packet_kind */
  __u8
      frag_proto; /* what every fragment of the datagram says: IPv6, the first header behind the fragment's */
  /* Bits, because the stack of the deepest call is used up to the last byte. */
  __u8 is_v6 : 1;
  __u8 first_fragment : 1; /* more fragments follow this one */
  __u8 rewrites_tcp : 1;   /* later fragment that lies over the TCP header of the first */
  __u8 may_fragment : 1;   /* IPv4 without DF */
  __u8 unanswerable : 1;   /* an ICMP error, or a redirect: no ICMP error may be sent about it */
  __u8 is_ruled : 1;       /* a rule has judged it */
  __u8 is_logged : 1;      /* and says that its flows are logged */
};

/* Return value of the parsing steps: go on, or the reason to stop with. */
#define PARSED (-1)

struct vlan_tag {
  __be16 tci;
  __be16 proto;
};

struct ext_header {
  __u8 next;
  __u8 len; /* in 8 octets behind the first 8 (AH: 4 octets, plus 2) */
  __u8 routing_type;
  __u8 segments_left;
  __be32 frag_id; /* only in the fragment header */
};

/* Reads what belongs to the datagram: padding behind it is the sender's to
 * choose, and no receiver takes it for a header. */
static __always_inline long load_header(ctx_t *ctx, const struct packet *p, __u32 offset, void *to,
                                        __u32 len) {
  return offset + len > p->end ? -1 : ctx_load(ctx, offset, to, len);
}

/* Headers that end too early: in a first fragment the rest may follow (RFC 1858, RFC 7112). */
static __always_inline int truncated(struct packet *p) {
  if (!p->first_fragment) return TPX_R_MALFORMED;
  p->kind = PACKET_OPAQUE;
  return PARSED;
}

struct ipv4_options {
  __u8 byte[IPV4_OPTIONS_MAX];
};

/*
 * A source route would carry the packet past the destination that was judged.
 * Every byte is visited in order and those inside an option are passed over:
 * jumping from option to option makes the verifier follow every way to do so.
 */
__weak __noinline int tpx_judge_options(const struct ipv4_options *options, __u32 len) {
  __u32 next = 0;

  if (!options) return TPX_R_MALFORMED;
  for (__u32 i = 0; i < IPV4_OPTIONS_MAX; i++) {
    __u32 type, size;

    if (i >= len) break;
    if (i != next) continue;
    type = options->byte[i];
    if (type == IPOPT_END) break;
    if (type == IPOPT_LSRR || type == IPOPT_SSRR) return TPX_R_SOURCE_ROUTED;
    size = 1; /* of a no-operation */
    if (type != IPOPT_NOOP) {
      size = i + 1 < IPV4_OPTIONS_MAX ? options->byte[i + 1] : 0;
      if (size < 2 || i + size > len) return TPX_R_MALFORMED;
    }
    next = i + size;
  }
  return PARSED;
}

static __noinline int parse_v4_options(ctx_t *ctx, __u32 offset, __u32 len) {
  struct ipv4_options options = {};

  /*
   * The compiler knows that four bits cannot give more; the verifier needs to
   * see the checks, each by itself, and learns nothing from len != 0 (6.1).
   */
  asm volatile("" : "+r"(len));
  if (len < 4) return TPX_R_MALFORMED;
  asm volatile("" : "+r"(len));
  if (len > IPV4_OPTIONS_MAX) return TPX_R_MALFORMED;
  if (ctx_load(ctx, offset, &options, len)) return TPX_R_MALFORMED;
  return tpx_judge_options(&options, len);
}

static __always_inline int parse_v4(ctx_t *ctx, __u32 *offset, struct packet *p) {
  struct iphdr *ip = &p->ip.v4;
  __u32 header_len, total_len, frag;

  if (ctx_load_20(ctx, *offset, ip) || ip->version != 4) return TPX_R_MALFORMED;
  header_len = ip->ihl * 4;
  total_len = bpf_ntohs(ip->tot_len);
  /* A GSO packet above 64 KiB (BIG TCP, Linux 6.3) has length 0. */
  if (header_len < sizeof(*ip) || ctx_is_shorter(ctx, total_len) ||
      (total_len < header_len && !(total_len == 0 && ctx_gso_size(ctx))))
    return TPX_R_MALFORMED;
  p->flow.src = addr_from_v4(ip->saddr);
  p->flow.dst = addr_from_v4(ip->daddr);
  p->flow.proto = ip->protocol;
  p->end = total_len ? *offset + total_len : ~0u;
  if (header_len > sizeof(*ip)) {
    int reason = parse_v4_options(ctx, *offset + sizeof(*ip), header_len - sizeof(*ip));

    if (reason != PARSED) return reason;
  }
  *offset += header_len;
  frag = bpf_ntohs(ip->frag_off);
  p->frag_id = ip->id;
  p->frag_proto = ip->protocol;
  p->may_fragment = !(frag & 0x4000);
  p->first_fragment = (frag & 0x2000) != 0;
  if (frag & 0x1fff) p->kind = PACKET_LATER_FRAGMENT;
  /* RFC 3128. IPv6 receivers refuse fragments that overlap (RFC 5722). */
  p->rewrites_tcp = ip->protocol == IPPROTO_TCP && (frag & 0x1fff) < TCP_HEADER_OCTETS;
  return PARSED;
}

static __always_inline int is_extension(__u8 header) {
  return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING || header == IPPROTO_FRAGMENT ||
         header == NEXTHDR_AUTH || header == IPPROTO_DSTOPTS;
}

/* Walks the extension headers; RFC 8200 sets no bound, we do. */
static __noinline int parse_v6_extensions(ctx_t *ctx, __u32 *offset_out, struct packet *p) {
  __u32 offset = *offset_out;
  __u8 next = p->ip.v6.nexthdr;

  for (int i = 0; i < MAX_IPV6_EXTENSIONS; i++) {
    struct ext_header h;

    if (!is_extension(next)) {
      p->flow.proto = next;
      *offset_out = offset;
      return PARSED;
    }
    p->flow.proto = TPX_PROTO_UNKNOWN;
    if (load_header(ctx, p, offset, &h, sizeof(h))) return truncated(p);
    if (next == IPPROTO_ROUTING) {
      if (h.routing_type == 0) return TPX_R_SOURCE_ROUTED; /* RFC 5095 */
      if (h.segments_left) break;                          /* dst is not the final destination */
    }
    if (next == IPPROTO_FRAGMENT) {
      /* bytes 2 and 3 are offset and flags here */
      __u16 frag = (__u16)h.routing_type << 8 | h.segments_left;

      p->frag_id = h.frag_id;
      p->frag_proto = h.next;
      p->first_fragment = frag & 1;
      if (frag & ~7) {
        p->kind = PACKET_LATER_FRAGMENT;
        p->flow.proto = is_extension(h.next) ? TPX_PROTO_UNKNOWN : h.next;
        return PARSED;
      }
      offset += 8;
    } else {
      offset += next == NEXTHDR_AUTH ? (h.len + 2) * 4 : (h.len + 1) * 8;
    }
    next = h.next;
  }
  p->kind = PACKET_OPAQUE;
  return PARSED;
}

static __always_inline int parse_v6(ctx_t *ctx, __u32 *offset, struct packet *p) {
  struct ipv6hdr *ip = &p->ip.v6;
  __u32 payload_len;

  if (ctx_load_40(ctx, *offset, ip) || ip->version != 6) return TPX_R_MALFORMED;
  payload_len = bpf_ntohs(ip->payload_len);
  if (ctx_is_shorter(ctx, sizeof(*ip) + payload_len)) return TPX_R_MALFORMED;
  __builtin_memcpy(&p->flow.src, &ip->saddr, sizeof(p->flow.src));
  __builtin_memcpy(&p->flow.dst, &ip->daddr, sizeof(p->flow.dst));
  /* To the programs, and to the policy, such an address is IPv4; none belongs on a wire. */
  if (addr_is_v4(&p->flow.src) || addr_is_v4(&p->flow.dst)) return TPX_R_MARTIAN;
  p->is_v6 = 1;
  *offset += sizeof(*ip);
  p->end = payload_len || !ctx_gso_size(ctx) ? *offset + payload_len : ~0u; /* BIG TCP, as above */
  return parse_v6_extensions(ctx, offset, p);
}

/* Types 3, 4, 11, 12 (RFC 792) and 1 to 4 (RFC 4443) quote the packet they are about. */
static __always_inline int is_icmp_error(const struct packet *p, __u8 type) {
  if (p->is_v6) return p->flow.proto == NEXTHDR_ICMPV6 && type >= 1 && type <= 4;
  return p->flow.proto == IPPROTO_ICMP && (type == 3 || type == 4 || type == 11 || type == 12);
}

/* RFC 1122, 3.2.2 and RFC 4443, 2.4 (e): those, source quench and redirects are never answered. */
static __always_inline int is_unanswerable_icmp(const struct packet *p, __u8 type) {
  if (p->is_v6) return type < 128 || type == 137;
  return is_icmp_error(p, type) || type == 5;
}

/*
 * The quoted packet is one that a local socket sent: its source is the socket's
 * own address. Turned round it is the tuple of a packet to that socket.
 * Quoted extension headers and fragments are left to the stack.
 */
static __noinline int parse_icmp_quote(ctx_t *ctx, __u32 offset, struct packet *p) {
  __be16 ports[2];
  __u8 proto;

  if (p->is_v6) {
    struct ipv6hdr ip;

    if (load_header(ctx, p, offset, &ip, sizeof(ip)) || ip.version != 6) return PARSED;
    proto = ip.nexthdr;
    __builtin_memcpy(&p->quoted.src, &ip.daddr, sizeof(p->quoted.src));
    __builtin_memcpy(&p->quoted.dst, &ip.saddr, sizeof(p->quoted.dst));
    offset += sizeof(ip);
  } else {
    struct iphdr ip;

    if (load_header(ctx, p, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
        (ip.frag_off & bpf_htons(0x1fff)))
      return PARSED;
    proto = ip.protocol;
    p->quoted.src = addr_from_v4(ip.daddr);
    p->quoted.dst = addr_from_v4(ip.saddr);
    offset += ip.ihl * 4;
  }
  if (proto != IPPROTO_TCP && proto != IPPROTO_UDP) return PARSED;
  if (load_header(ctx, p, offset, ports, sizeof(ports))) return PARSED;
  p->quoted.sport = ports[1];
  p->quoted.dport = ports[0];
  p->quoted.proto = proto;
  p->kind = PACKET_ICMP_ERROR;
  return PARSED;
}

/*
 * A length that receivers refuse is the stack's matter. IPv6 ones take 0 for a
 * datagram that goes on to the end of its packet (RFC 2675).
 */
static __always_inline int parse_udp(ctx_t *ctx, __u32 offset, struct packet *p) {
  __u32 len;

  if (offset + sizeof(p->udp) > p->end || ctx_load_8(ctx, offset, &p->udp)) return truncated(p);
  len = bpf_ntohs(p->udp.len);
  if (!(len == 0 && p->is_v6)) {
    if (len < sizeof(p->udp)) return TPX_R_MALFORMED;
    if (!p->first_fragment && offset + len > p->end) return TPX_R_MALFORMED;
  }
  p->kind = PACKET_UDP;
  p->flow.sport = p->udp.source;
  p->flow.dport = p->udp.dest;
  return PARSED;
}

static __always_inline int parse_transport(ctx_t *ctx, __u32 offset, struct packet *p) {
  if (p->flow.proto == IPPROTO_TCP) {
    if (offset + sizeof(p->tcp) > p->end || ctx_load_20(ctx, offset, &p->tcp)) return truncated(p);
    if (p->tcp.doff < 5) return TPX_R_MALFORMED;
    p->kind = PACKET_TCP;
    p->flow.sport = p->tcp.source;
    p->flow.dport = p->tcp.dest;
    return PARSED;
  }
  if (p->flow.proto == IPPROTO_UDP) return parse_udp(ctx, offset, p);
  p->kind = PACKET_OTHER;
  if (p->flow.proto == IPPROTO_UDPLITE) {
    __be16 ports[2];

    if (load_header(ctx, p, offset, ports, sizeof(ports))) return truncated(p);
    p->flow.sport = ports[0];
    p->flow.dport = ports[1];
  } else if (p->flow.proto == IPPROTO_ICMP || p->flow.proto == NEXTHDR_ICMPV6) {
    __u8 type;

    if (load_header(ctx, p, offset, &type, 1)) return truncated(p);
    p->unanswerable = is_unanswerable_icmp(p, type);
    if (is_icmp_error(p, type)) return parse_icmp_quote(ctx, offset + 8, p);
  }
  return PARSED;
}

/* p must be zeroed. Returns PARSED or the reason to leave with. */
static __always_inline int parse_packet(ctx_t *ctx, struct packet *p) {
  __be16 proto = ctx_protocol(ctx);
  __u32 offset = 0;
  int reason;

  if (ctx_vlan_id(ctx)) return TPX_R_VLAN_TAGGED;
  if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD)) {
    struct vlan_tag tag;

    if (ctx_load(ctx, 0, &tag, sizeof(tag))) return TPX_R_MALFORMED;
    if (tag.tci & bpf_htons(0xfff)) return TPX_R_VLAN_TAGGED;
    proto = tag.proto; /* id 0 carries a priority only (802.1p) */
    offset = sizeof(tag);
  }
  if (proto == bpf_htons(ETH_P_IP))
    reason = parse_v4(ctx, &offset, p);
  else if (proto == bpf_htons(ETH_P_IPV6))
    reason = parse_v6(ctx, &offset, p);
  else
    return TPX_R_NOT_IP;
  if (reason != PARSED) return reason;
  if (p->kind == PACKET_LATER_FRAGMENT || p->kind == PACKET_OPAQUE) return PARSED;
  return parse_transport(ctx, offset, p);
}

/* Neither IPv4 options nor extension headers. */
static __always_inline int has_plain_header(const struct packet *p) {
  return p->is_v6 ? p->ip.v6.nexthdr == p->flow.proto : p->ip.v4.ihl == 5;
}
