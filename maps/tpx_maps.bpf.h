/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps, for BPF programs only. Weak, so that every object may include them
 * and the linker keeps one of each. maps/README.md is the table of who writes
 * and reads what.
 */
#pragma once

#include "tpx_abi.h"
#include "tpx_affinity.h"
#include "tpx_event.h"
#include "tpx_local_flow.h"
#include "tpx_nat.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct tpx_control);
} tpx_control SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, TPX_MAX_WORKERS);
  __type(key, __u32);
  __type(value, struct tpx_worker);
} tpx_workers SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_SOCKMAP);
  __uint(max_entries, TPX_MAX_WORKERS *TPX_LISTENER_KINDS);
  __type(key, __u32);
  __type(value, __u64);
} tpx_listeners SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, TPX_REASON_COUNT);
  __type(key, __u32);
  __type(value, struct tpx_count);
} tpx_counters SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, TPX_MAX_COUNTERS);
  __type(key, __u32);
  __type(value, struct tpx_count);
} tpx_rule_hits SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, TPX_MAX_LOCAL_ADDRS);
  __type(key, struct tpx_addr);
  __type(value, __u32);
} tpx_local SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, TPX_MAX_FLOWS);
  __type(key, struct tpx_flow);
  __type(value, struct tpx_verdict);
} tpx_flows SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, TPX_RECENT_LINES);
  __type(key, __u32);
  __type(value, struct tpx_recent);
} tpx_recent SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, TPX_MAX_TRANSLATIONS);
  __type(key, struct tpx_flow);
  __type(value, struct tpx_translation);
} tpx_nat SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, TPX_UPSTREAMS);
  __type(key, __u32);
  __type(value, struct tpx_upstream);
} tpx_upstreams SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, TPX_AFFINITIES);
  __type(key, __u32);
  __type(value, struct tpx_affinity);
} tpx_affinities SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, TPX_RELAYED);
  __type(key, __u32);
  __type(value, __u32);
} tpx_relayed SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, TPX_MAX_FRAGS);
  __type(key, struct tpx_frag_key);
  __type(value, struct tpx_frag);
} tpx_frags SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, TPX_MAX_SOURCES);
  __type(key, struct tpx_source_key);
  __type(value, struct tpx_source);
} tpx_sources SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct tpx_socket);
} tpx_sockets SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, TPX_MAX_PEERS);
  __type(key, struct tpx_peer_key);
  __type(value, struct tpx_peer);
} tpx_peers SEC(".maps") __weak;

/* A TCP connection to a server on the gateway, as the server sees it → where its client wanted to go. */
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, TPX_MAX_ORIGINALS);
  __type(key, struct tpx_flow);
  __type(value, struct tpx_target);
} tpx_originals SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, TPX_HANDOFF_SLOTS);
  __type(key, __u32);
  __type(value, struct tpx_handoff);
} tpx_handoff SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} tpx_guard SEC(".maps") __weak;

/* When the next ICMP error may be sent, CLOCK_MONOTONIC; lags behind by what may be sent at once. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} tpx_refusals SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, TPX_MAX_DEVICES);
  __type(key, __u32);
  __type(value, __u32);
} tpx_devices SEC(".maps") __weak;

/* Inner maps give sizes, not types: clang emits only forward declarations for
 * types that are reached through a second pointer, and linking then fails. */
struct tpx_tables_map {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, sizeof(struct tpx_tables));
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, TPX_SLOTS);
  __type(key, __u32);
  __array(values, struct tpx_tables_map);
} tpx_tables SEC(".maps") __weak;

/* The flag lets inner maps differ in size (Linux 5.10). */
struct tpx_pages_map {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_INNER_MAP);
  __uint(max_entries, 1);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, sizeof(struct tpx_page));
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, TPX_SLOTS * 2);
  __type(key, __u32);
  __array(values, struct tpx_pages_map);
} tpx_prefixes SEC(".maps") __weak;

/* Hashes may differ in size. */
struct tpx_attributes_map {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, TPX_MAX_ATTRIBUTES);
  __uint(key_size, sizeof(struct tpx_attribute_key));
  __uint(value_size, sizeof(struct tpx_bits));
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, TPX_SLOTS);
  __type(key, __u32);
  __array(values, struct tpx_attributes_map);
} tpx_attributes SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, TPX_TRACE_BYTES);
} tpx_events SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct tpx_trace);
} tpx_trace SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, TPX_LOG_BYTES);
} tpx_log SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct tpx_log_lease);
} tpx_log_lease SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, TPX_MAX_COUNTERS);
  __type(key, __u32);
  __type(value, struct tpx_log_rate);
} tpx_log_rates SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct tpx_event_counts);
} tpx_event_cnts SEC(".maps") __weak;
