/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The contract between the BPF programs and user space: keys, values, enums
 * and limits of every map. Included by BPF C and by C++, so it is plain C with
 * kernel UAPI types only.
 *
 * Rules of this file
 *  - no implicit padding: TPX_SIZE checks the size in both languages, and the
 *    C++ side also asserts unique object representations;
 *  - addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, in network byte order;
 *  - a change of any layout raises TPX_ABI_VERSION.
 */
#pragma once

#include <linux/types.h>

#define TPX_ABI_VERSION 16

#define TPX_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)
#ifdef __cplusplus
#undef TPX_SIZE
#include <type_traits>
#define TPX_SIZE(type, size) \
  static_assert(sizeof(type) == (size) && std::has_unique_object_representations_v<type>, #type)
extern "C" {
#endif

/* ---- limits ------------------------------------------------------------ */

#define TPX_MAX_RULES 1024                   /* the default rule included */
#define TPX_MAX_COUNTERS (2 * TPX_MAX_RULES) /* of two generations that have no rule in common */
#define TPX_RULE_WORDS (TPX_MAX_RULES / 64)
#define TPX_MAX_CLASSES 8192       /* bit vectors of one generation, all dimensions */
#define TPX_MAX_PREFIXES (1 << 21) /* of one address, both families */
#define TPX_MAX_BLOCKS 4096        /* steps of one generation, half of them for each address */
#define TPX_MAX_WORKERS 64
#define TPX_MAX_LOCAL_ADDRS 4096
#define TPX_LOCAL_FILTER_BITS 4096 /* a power of two */
#define TPX_MAX_FLOWS 131072
#define TPX_RECENT_LINES (TPX_MAX_FLOWS / 8) /* of 16 */
#define TPX_MAX_FRAGS 8192
#define TPX_MAX_SOURCES 65536 /* with the rules that limit them */
#define TPX_SLOTS 2           /* generations kept: the live one and the one being filled */
#define TPX_HANDOFF_SLOTS 256
#define TPX_MAX_DEVICES 1024
#define TPX_MAX_ATTRIBUTES \
  16384 /* values of all kinds that the rules of one generation name, devices included */
#define TPX_MAX_PEERS 65536
#define TPX_MAX_ORIGINALS 65536
#define TPX_MAX_MARKS 8 /* different pairs of value and mask in one generation */

/* ---- verdicts ---------------------------------------------------------- */

enum tpx_action {
  TPX_ACTION_BYPASS = 0,   /* leave the packet to the kernel */
  TPX_ACTION_PROXY = 1,    /* TCP, UDP: deliver to a worker's listener; else leave to the kernel */
  TPX_ACTION_DROP = 2,     /* discard silently */
  TPX_ACTION_REJECT = 3,   /* answer RST or an ICMP error */
  TPX_ACTION_REDIRECT = 4, /* as PROXY, but the worker connects to the rule's own target */
};

/* What happens to a new flow of a proxy rule while no worker can take it. */
enum tpx_fail_mode {
  TPX_FAIL_OPEN = 0,   /* pass to the real destination */
  TPX_FAIL_CLOSED = 1, /* drop */
  TPX_FAIL_RESET = 2,  /* answer RST or an ICMP error */
};

/* Which source address the server sees. */
enum tpx_source_mode {
  TPX_SOURCE_MASQUERADE = 0, /* the gateway's own */
  TPX_SOURCE_PRESERVE = 1,   /* the client's */
  TPX_SOURCE_MODES = 2,
};

/* Who forwards what a rule bypasses behind a flow's first packet, and of UDP what it proxies once a worker
 * has made the session. */
enum tpx_forward {
  TPX_FORWARD_STACK = 0, /* or the worker */
  TPX_FORWARD_FIB = 1,   /* tc, by the stack's routes and neighbours */
  TPX_FORWARD_AUTO = 2,  /* of what is proxied: tc, while nobody would miss the packets in the stack */
};

/* UDP, RFC 4787: what decides whether two datagrams of a client's port belong
 * together, and who may answer. */
enum tpx_mapping {
  TPX_MAPPING_ENDPOINT_INDEPENDENT = 0,       /* full cone: one upstream port, anybody may answer */
  TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT = 1, /* one per destination, which alone may answer */
};

/* The listening sockets of a worker. Which one a flow comes to tells the worker
 * what it has to know of the verdict; for the last of each protocol it looks the
 * flow up in tpx_flows. */
enum tpx_listener {
  TPX_LISTENER_TCP_MASQUERADE = 0,
  TPX_LISTENER_TCP_PRESERVE = 1,
  TPX_LISTENER_TCP_REDIRECT = 2,
  TPX_LISTENER_UDP_MASQUERADE = 3,
  TPX_LISTENER_UDP_PRESERVE = 4,
  TPX_LISTENER_UDP_PAIR = 5, /* redirected, or TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT */
  TPX_LISTENER_KINDS = 6,
};

/* Whether a rule's flows are written to the proxy's log. */
enum tpx_log_mode {
  TPX_LOG_NONE = 0,
  TPX_LOG_SAMPLE = 1, /* as far as TPX_LOG_PER_SECOND allows */
};

enum tpx_reason {
#define TPX_REASON(symbol, hook, effect, text) TPX_R_##symbol,
#include "tpx_reasons.def"
#undef TPX_REASON
  TPX_REASON_COUNT
};

/* Counters a worker keeps in its own struct tpx_worker. */
enum tpx_worker_counter {
#define TPX_COUNTER(symbol, kind, text) TPX_C_##symbol,
#include "tpx_counters.def"
#undef TPX_COUNTER
  TPX_WORKER_COUNTER_COUNT
};

/* ---- flows ------------------------------------------------------------- */

struct tpx_addr {
  __be32 w[4];
};
TPX_SIZE(struct tpx_addr, 16);

/* As seen in the packet: src is the sender. Ports are 0 where there are none. */
struct tpx_flow {
  struct tpx_addr src;
  struct tpx_addr dst;
  __be16 sport;
  __be16 dport;
  __u8 proto;
  __u8 pad[3];
};
TPX_SIZE(struct tpx_flow, 40);

/* Where a redirected flow goes. */
struct tpx_target {
  struct tpx_addr addr;
  __be16 port;
  __u16 pad;
};
TPX_SIZE(struct tpx_target, 20);

struct tpx_verdict {
  __u16 counter;         /* of the rule that gave it */
  __u16 reason;          /* enum tpx_reason */
  __u8 action;           /* enum tpx_action */
  __u8 fail_mode;        /* enum tpx_fail_mode */
  __u8 source;           /* enum tpx_source_mode */
  __u8 mapping;          /* enum tpx_mapping */
  __u8 worker;           /* chosen worker, where action is proxy or redirect */
  __u8 fragmentable : 1; /* UDP over IPv4: the flow's last datagram may be fragmented on its way */
  __u8 logs : 1;         /* the rule says so */
  __u8 forward : 2;      /* enum tpx_forward */
  __u8 relayed : 1; /* UDP: since an ICMP error about one its answers are the worker's, until its sender is
                       heard */
  __u8 pad : 3;
  __u16 limit;          /* 1 + number of the rule, if it has a limit */
  __u32 device;         /* UDP: index of the device that the flow came in by */
  __u32 seen_s;         /* CLOCK_MONOTONIC; where the verdict is kept, in tpx_flows */
  struct tpx_target to; /* where action is redirect */
};
TPX_SIZE(struct tpx_verdict, 40);

/* tpx_handoff: what tc decided for a SYN, for sk_lookup a moment later. */
struct tpx_handoff {
  struct tpx_flow flow;
  struct tpx_verdict verdict;
};
TPX_SIZE(struct tpx_handoff, 80);

/* tpx_frags: the fate of a datagram's first fragment, for the later ones; and
 * that of the last first fragment between two addresses, for those that overtake their own. */
struct tpx_frag_key {
  struct tpx_addr src;
  struct tpx_addr dst;
  __be32 id; /* 0 where of_pair */
  __u8 proto;
  __u8 of_pair; /* 1: of the two addresses, not of one datagram */
  __u8 pad[2];
};
TPX_SIZE(struct tpx_frag_key, 40);

struct tpx_frag {
  __u64 seen_ns; /* CLOCK_MONOTONIC; entries older than the stack's reassembly time are ignored */
  __u32 effect;  /* enum tpx_effect */
  __u32 pad;
};
TPX_SIZE(struct tpx_frag, 16);

/* tpx_sources: what a source has used up of what a rule allows it. */
struct tpx_source_key {
  struct tpx_addr addr; /* of IPv6 the first 64 bits */
  __u32 counter;        /* of the rule */
};
TPX_SIZE(struct tpx_source_key, 20);

struct tpx_source {
  __u64 full_ns;   /* CLOCK_MONOTONIC; when all of the burst is there again */
  __u64 denied_ns; /* when its penalty began; 0: never */
};
TPX_SIZE(struct tpx_source, 16);

/* What a hook does with a packet. Every reason has exactly one. */
enum tpx_effect {
  TPX_EFFECT_PASS = 0,
  TPX_EFFECT_STEER = 1,
  TPX_EFFECT_DROP = 2,
  TPX_EFFECT_ANSWER = 3, /* turned into a RST or an ICMP error and sent back */
};

/* ---- policy: one generation -------------------------------------------- */

/* In a flow: the protocol is out of reach. The number is reserved, so that only
 * rules for every protocol match it. */
#define TPX_PROTO_UNKNOWN 255

/*
 * What rules may ask for besides addresses, ports and protocol: the link that a
 * packet came by, or the process that a local flow belongs to. Inner map of
 * tpx_attributes: a hash of the values that rules name → the rules that accept
 * them. A value that is not there has the class tpx_tables.other_class.
 */
enum tpx_attribute {
  TPX_ATTR_DEVICE = 0, /* ifindex */
  TPX_ATTR_MAC = 1,    /* source address, the first byte lowest */
  TPX_ATTR_DSCP = 2,   /* no entries: dscp_class */
  TPX_ATTR_MARK = 3,   /* no entries: mark_class */
  TPX_ATTR_UID = 4,
  TPX_ATTR_GID = 5,
  TPX_ATTR_CGROUP = 6, /* id of cgroup v2; the entry of a cgroup accepts what those above it accept, too */
  TPX_ATTR_EXE = 7,    /* inode and device of the program's file */
  TPX_ATTRIBUTES = 8,
};

struct tpx_attribute_key {
  __u64 value;
  __u32 attribute; /* enum tpx_attribute */
  __u32 device;    /* of TPX_ATTR_EXE, as the kernel has it (major << 20 | minor); else 0 */
};
TPX_SIZE(struct tpx_attribute_key, 16);

struct tpx_link {
  __u32 ifindex;
  __u32 mark;
  __u8 mac[6]; /* 0 where the device has none */
  __u8 dscp;
  __u8 pad;
};
TPX_SIZE(struct tpx_link, 16);

/* Whose flow it is, where it begins on the gateway itself. */
struct tpx_owner {
  __u64 cgroup; /* the nearest one above the process, or its own, that has an entry; else 0 */
  __u64 exe_inode;
  __u32 exe_device;
  __u32 uid;
  __u32 gid;
  __u32 pad;
};
TPX_SIZE(struct tpx_owner, 32);

/* One pair of value and mask that rules name. */
struct tpx_mark_match {
  __u32 value;
  __u32 mask;
};
TPX_SIZE(struct tpx_mark_match, 8);

enum tpx_dimension {
  TPX_DIM_SRC = 0,
  TPX_DIM_DST = 1,
  TPX_DIM_SPORT = 0, /* index into port_class */
  TPX_DIM_DPORT = 1,
};

struct tpx_rule {
  __u16 counter; /* index into tpx_rule_hits; the same in every generation that has a rule of this name */
  __u8 action;
  __u8 fail_mode;
  __u8 source;
  __u8 mapping;
  __u16 penalty_s; /* for so long a source that was too fast gets nothing at all; 0: only what is too much */
  __u32 rate;      /* new flows a second from one source; 0: no limit */
  __u32 burst;     /* new flows at once */
  struct tpx_target to;
  __u8 log;     /* enum tpx_log_mode */
  __u8 forward; /* enum tpx_forward */
  __u8 pad[2];
};
TPX_SIZE(struct tpx_rule, 40);

/* One bit per rule; summary has one bit per non-zero word. */
struct tpx_bits {
  __u64 word[TPX_RULE_WORDS];
  __u64 summary;
};
TPX_SIZE(struct tpx_bits, 136);

/*
 * One step from an address to its class, and what the bytes of the address lead
 * through: blocks of 256 steps, one byte each, beginning with the first byte of
 * IPv6 and the 13th (the dotted part) of IPv4. A few steps cost as much with a
 * thousand prefixes as with one. A family that needs more blocks than there are
 * has none, and is searched in the pages of tpx_prefixes instead.
 */
#define TPX_STEP_BLOCK 0x8000  /* go on in this block; without the flag: the class */
#define TPX_STEP_SEARCH 0xffff /* search the pages; only as root */

/*
 * Inner map of tpx_prefixes: as many pages as the prefixes need. A page is
 * TPX_PAGE_WORDS words of IPv4 or one node of IPv6.
 *
 * IPv4. The first TPX_V4_NET_WORDS words, few enough for a cache, have two bits for
 * each network of TPX_V4_NET_BITS bits, the lowest first: the index in
 * tpx_tables.v4_class of the class of all its addresses, or of TPX_STEP_SEARCH. The
 * next TPX_V4_ROOTS words say by an address's first two bytes where to search: a
 * class, or where the ranges are, or (where they are many) a table of 256 such words
 * by the third byte. Ranges lie next to one another in one page, sorted: the two last
 * bytes of the first address in the upper half, the class in the lower. The first
 * one begins at or before the address.
 */
#define TPX_PAGE_WORDS 1024
#define TPX_V4_NET_BITS 20
#define TPX_V4_NET_WORDS ((1u << TPX_V4_NET_BITS) / 16)
#define TPX_V4_COMMON 4 /* classes that two bits tell apart, TPX_STEP_SEARCH included */
#define TPX_V4_ROOTS 65536
#define TPX_AT_RANGES 0x80000000u
#define TPX_AT_TABLE 0x40000000u
#define TPX_AT(at) (((at) >> 8 & 0x3fffff) * TPX_AT_UNIT) /* number of the first word, over all pages */
#define TPX_AT_COUNT(at) (((at)&0xff) + 1)
#define TPX_AT_UNIT 4
#define TPX_MAX_RANGES 256 /* in one place */
#define TPX_MAX_V4_WORDS (TPX_AT_UNIT << 22)

struct tpx_page {
  __u32 word[TPX_PAGE_WORDS];
};
TPX_SIZE(struct tpx_page, 4096);

/*
 * IPv6. A tree of tpx_tables.v6_levels nodes from the root to each leaf. A node
 * divides its addresses into ranges; `next` of a range is the page of a node or,
 * in a leaf, the class. The last range fills the unused entries.
 */
#define TPX_V6_FANOUT 128
#define TPX_V6_LEVELS 4

struct tpx_v6_node {
  __u64
      high[TPX_V6_FANOUT]; /* of the first address, host byte order; in the first range it does not matter */
  __u64 low[TPX_V6_FANOUT];
  __u32 next[TPX_V6_FANOUT];
  __u32 zero; /* 0 */
  __u32 pad[383];
};
TPX_SIZE(struct tpx_v6_node, sizeof(struct tpx_page));

/*
 * Everything but the prefixes. Each dimension maps its value to a class, each
 * class to the set of rules that accept it; the lowest bit of the AND over all
 * dimensions is the rule. The last rule is the default and is in every set, so
 * there is always a match. Class numbers index bits[].
 */
struct tpx_tables {
  __u32 generation;
  __u32 n_rules;       /* the default rule included, at least 1 */
  __u32 miss_class[2]; /* class of an address that no prefix covers */
  __u32 v6_root[2];    /* page of the first node, where IPv6 is searched */
  __u16 v6_levels[2];
  __u16 classify_others; /* 1: a rule may drop or reject something that is neither TCP nor UDP */
  __u16 forwards;        /* 1: a rule that bypasses says TPX_FORWARD_FIB */
  __u32 asks;            /* bit per enum tpx_attribute that some rule asks for */
  struct tpx_mark_match marks[TPX_MAX_MARKS]; /* those that are not used fit every mark */
  __u16 mark_class[1 << TPX_MAX_MARKS];       /* index: bit per pair that the mark fits */
  __u16 dscp_class[64];
  __u16 other_class[TPX_ATTRIBUTES]; /* of values without an entry */
  __u16 linkless_class;              /* rules that do not ask for the link; for who does not know it */
  __u16 portless_class;              /* rules that accept every port */
  __u16 denying_class;               /* rules that may keep a packet from its destination */
  __u16 steering_class;              /* rules that proxy or redirect */
  __u16 pad[2];
  __u16 proto_class[256];           /* of packets: rules that do not ask for the owner */
  __u16 local_proto_class[256];     /* of local flows: rules that do not ask for the link */
  __u16 port_class[2][65536];       /* index: port in host byte order */
  __u16 root[2][2];                 /* first step, by dimension; [1] for IPv4 */
  __u16 v4_class[2][TPX_V4_COMMON]; /* of most networks; the last, and unused ones, TPX_STEP_SEARCH */
  __u16 block[TPX_MAX_BLOCKS][256];
  struct tpx_rule rules[TPX_MAX_RULES];
  struct tpx_bits bits[TPX_MAX_CLASSES];
};
TPX_SIZE(struct tpx_tables, 36 + 64 + 512 + 128 + 28 + 1024 + 262144 + 8 + 16 + TPX_MAX_BLOCKS * 512 +
                                TPX_MAX_RULES * 40 + TPX_MAX_CLASSES * 136);

/* ---- shared state ------------------------------------------------------ */

/* tpx_control[0], memory-mapped. generation & 1 is the live slot of tpx_tables,
 * tpx_prefixes and tpx_attributes; 0 means that nothing was published yet (everything passes). */
struct tpx_control {
  __u32 abi_version;
  __u32 generation;
  __u32 n_workers;
  __u32 listen_port; /* host byte order, TCP and UDP; 0 while nobody listens */
  __u32 udp_flow_s;  /* a UDP flow that is silent for so long is decided anew */
  __u32 udp_ended;   /* raised when a command took UDP flows out of tpx_flows: who serves has to look again */
  __u64 netns_cookie; /* of the network namespace whose local flows are judged; 0: of none */
  __u32 headerless;   /* 1: some device of the tc programs has, or had, no Ethernet headers */
  __u32 translates;   /* 1: tpx_nat may have entries */
  __u32 watchers;   /* bits of tpx_watchers.h: who would miss packets in the stack, as run has seen it last */
  __u32 watchers_s; /* CLOCK_MONOTONIC, seconds: when that was */
  __u64 local_filter[TPX_LOCAL_FILTER_BITS /
                     64]; /* the tpx_local_bit() of each address in tpx_local, and maybe more */
};
TPX_SIZE(struct tpx_control, 48 + TPX_LOCAL_FILTER_BITS / 8);

enum tpx_worker_state {
  TPX_WORKER_ABSENT = 0,
  TPX_WORKER_SERVING = 1,
  TPX_WORKER_FULL = 2,     /* at its session limit: takes no new TCP flow */
  TPX_WORKER_DRAINING = 3, /* stopping: takes no new flow */
};

/* Waking a worker costs more than a new session: tc may give those of one that sleeps to another. */
enum tpx_worker_rest {
  TPX_WORKER_ASLEEP = 0,
  TPX_WORKER_AWAKE = 1,
  TPX_WORKER_BUSY = 2, /* asleep or not: it has no time, or no ports, for what is not its own */
};

/* tpx_workers[id], memory-mapped; written by that worker alone with plain
 * stores, read by BPF for each new flow and by any observer.
 *
 * A session that has gone from the gauge TPX_C_SESSIONS is counted under what
 * ended it, for whoever loads the gauge before the other counters, all with
 * acquire. The exception is a process that was killed: the next one sets the
 * gauge to 0. */
struct tpx_worker {
  __u64 deadline_ns; /* CLOCK_MONOTONIC; alive until the first timer tick after it */
  __u32 state;       /* enum tpx_worker_state */
  __u32 pid;         /* of the process that owns the slot */
  __u32 rest;        /* enum tpx_worker_rest */
  __u32 pad;
  __u64 counter[61]; /* enum tpx_worker_counter */
};
TPX_SIZE(struct tpx_worker, 512);

/* tpx_counters[reason] and tpx_rule_hits[tpx_rule.counter], per CPU. */
struct tpx_count {
  __u64 packets;
  __u64 bytes;
  __u64 by_xdp; /* of the packets: dropped there, or passed by tc at XDP's word */
};
TPX_SIZE(struct tpx_count, 24);

/* tpx_local[address]: why an address is the gateway's own. */
enum tpx_local_kind {
  TPX_LOCAL_ADDRESS = 1,
  TPX_LOCAL_BROADCAST = 2,
};

/* Which bit of tpx_control.local_filter stands for an address. */
static inline __u32 tpx_local_bit(const struct tpx_addr *a) {
  __u64 hash = ((__u64)a->w[0] << 32 | a->w[1]) * 0x9e3779b97f4a7c15ULL;

  hash ^= (__u64)a->w[2] << 32 | a->w[3];
  return (hash * 0xbf58476d1ce4e5b9ULL >> 40) % TPX_LOCAL_FILTER_BITS;
}

/* tpx_recent[hash of a flow]: when any of the flows of that hash was noted in tpx_flows last. */
struct tpx_recent {
  __u32 seen_s[16]; /* as tpx_verdict.seen_s */
};
TPX_SIZE(struct tpx_recent, 64);

/* Index of a worker's listener in tpx_listeners. */
#define TPX_LISTENER(worker, kind) ((worker)*TPX_LISTENER_KINDS + (kind))

/* tpx_devices[ifindex]: which program is attached there. */
enum tpx_role {
  TPX_ROLE_LAN = 1,
  TPX_ROLE_WAN = 2,
};

#ifdef __cplusplus
}
#endif
