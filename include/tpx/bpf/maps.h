// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tpx/bpf/map.h"
#include "tpx/bpf/ring_reader.h"
#include "tpx/bpf/shared_array.h"
#include "tpx_abi.h"
#include "tpx_affinity.h"
#include "tpx_event.h"
#include "tpx_judge.h"
#include "tpx_local_flow.h"
#include "tpx_nat.h"

// The maps of a pin directory, each with its type. See tpx_abi.h for meanings.
namespace tpx::bpf {

inline absl::StatusOr<SharedArray<tpx_control>> OpenControl(const std::string& pins, Access access) {
  return SharedArray<tpx_control>::OpenPinned(pins + "/tpx_control", 1, access);
}
inline absl::StatusOr<SharedArray<tpx_affinity>> OpenAffinities(const std::string& pins, Access access) {
  return SharedArray<tpx_affinity>::OpenPinned(pins + "/tpx_affinities", TPX_AFFINITIES, access);
}
inline absl::StatusOr<SharedArray<tpx_worker>> OpenWorkers(const std::string& pins, Access access) {
  return SharedArray<tpx_worker>::OpenPinned(pins + "/tpx_workers", TPX_MAX_WORKERS, access);
}
// Index TPX_LISTENER(worker, kind); written as a descriptor, read as a socket cookie.
inline absl::StatusOr<Map<uint32_t, uint64_t>> OpenListeners(const std::string& pins, Access access) {
  return Map<uint32_t, uint64_t>::OpenPinned(pins + "/tpx_listeners", BPF_MAP_TYPE_SOCKMAP, access);
}
inline absl::StatusOr<PerCpuArray<tpx_count>> OpenCounters(const std::string& pins, Access access) {
  return PerCpuArray<tpx_count>::OpenPinned(pins + "/tpx_counters", access);
}
// Index tpx_rule.counter.
inline absl::StatusOr<PerCpuArray<tpx_count>> OpenRuleHits(const std::string& pins, Access access) {
  return PerCpuArray<tpx_count>::OpenPinned(pins + "/tpx_rule_hits", access);
}
inline absl::StatusOr<Map<tpx_addr, uint32_t>> OpenLocal(const std::string& pins, Access access) {
  return Map<tpx_addr, uint32_t>::OpenPinned(pins + "/tpx_local", BPF_MAP_TYPE_HASH, access);
}
inline absl::StatusOr<Map<tpx_flow, tpx_verdict>> OpenFlows(const std::string& pins, Access access) {
  return Map<tpx_flow, tpx_verdict>::OpenPinned(pins + "/tpx_flows", BPF_MAP_TYPE_LRU_HASH, access);
}
inline absl::StatusOr<Map<tpx_flow, tpx_translation>> OpenNat(const std::string& pins, Access access) {
  return Map<tpx_flow, tpx_translation>::OpenPinned(pins + "/tpx_nat", BPF_MAP_TYPE_HASH, access);
}
// Index TPX_UPSTREAM(is_v6, port).
inline absl::StatusOr<SharedArray<tpx_upstream>> OpenUpstreams(const std::string& pins, Access access) {
  return SharedArray<tpx_upstream>::OpenPinned(pins + "/tpx_upstreams", TPX_UPSTREAMS, access);
}
// Key: a descriptor of the socket.
inline absl::StatusOr<Map<int, tpx_socket>> OpenSockets(const std::string& pins, Access access) {
  return Map<int, tpx_socket>::OpenPinned(pins + "/tpx_sockets", BPF_MAP_TYPE_SK_STORAGE, access);
}
// Per CPU: what tc decided, index by the flow's hash.
inline absl::StatusOr<PerCpuArray<tpx_handoff>> OpenHandoff(const std::string& pins, Access access) {
  return PerCpuArray<tpx_handoff>::OpenPinned(pins + "/tpx_handoff", access);
}
inline absl::StatusOr<Map<tpx_source_key, tpx_source>> OpenSources(const std::string& pins, Access access) {
  return Map<tpx_source_key, tpx_source>::OpenPinned(pins + "/tpx_sources", BPF_MAP_TYPE_LRU_HASH, access);
}
// Key ifindex, value tpx_role.
inline absl::StatusOr<Map<uint32_t, uint32_t>> OpenDevices(const std::string& pins, Access access) {
  return Map<uint32_t, uint32_t>::OpenPinned(pins + "/tpx_devices", BPF_MAP_TYPE_HASH, access);
}
// Of one inner map per slot; of prefixes, per slot and dimension (slot * 2 + dimension).
// The value is a descriptor when written and a map id when read.
inline absl::StatusOr<Map<uint32_t, uint32_t>> OpenTables(const std::string& pins, Access access) {
  return Map<uint32_t, uint32_t>::OpenPinned(pins + "/tpx_tables", BPF_MAP_TYPE_ARRAY_OF_MAPS, access);
}
inline absl::StatusOr<Map<uint32_t, uint32_t>> OpenPrefixes(const std::string& pins, Access access) {
  return Map<uint32_t, uint32_t>::OpenPinned(pins + "/tpx_prefixes", BPF_MAP_TYPE_ARRAY_OF_MAPS, access);
}
// Of one inner map per slot, as above.
inline absl::StatusOr<Map<uint32_t, uint32_t>> OpenAttributes(const std::string& pins, Access access) {
  return Map<uint32_t, uint32_t>::OpenPinned(pins + "/tpx_attributes", BPF_MAP_TYPE_ARRAY_OF_MAPS, access);
}

// Of the judge alone.
inline absl::StatusOr<SharedArray<tpx_question>> OpenQuestions(const std::string& pins, Access access) {
  return SharedArray<tpx_question>::OpenPinned(pins + "/tpx_questions", TPX_QUESTIONS, access);
}
// What a program tells those who listen: see tpx_event.h.
inline absl::StatusOr<RingReader<tpx_event>> OpenEvents(const std::string& pins) {
  return RingReader<tpx_event>::OpenPinned(pins + "/tpx_events");
}
inline absl::StatusOr<SharedArray<tpx_trace>> OpenTrace(const std::string& pins, Access access) {
  return SharedArray<tpx_trace>::OpenPinned(pins + "/tpx_trace", 1, access);
}
inline absl::StatusOr<RingReader<tpx_event>> OpenLog(const std::string& pins) {
  return RingReader<tpx_event>::OpenPinned(pins + "/tpx_log");
}
inline absl::StatusOr<SharedArray<tpx_log_lease>> OpenLogLease(const std::string& pins, Access access) {
  return SharedArray<tpx_log_lease>::OpenPinned(pins + "/tpx_log_lease", 1, access);
}
// Index tpx_rule.counter.
inline absl::StatusOr<PerCpuArray<tpx_log_rate>> OpenLogRates(const std::string& pins, Access access) {
  return PerCpuArray<tpx_log_rate>::OpenPinned(pins + "/tpx_log_rates", access);
}
inline absl::StatusOr<PerCpuArray<tpx_event_counts>> OpenEventCounts(const std::string& pins, Access access) {
  return PerCpuArray<tpx_event_counts>::OpenPinned(pins + "/tpx_event_cnts", access);
}

}  // namespace tpx::bpf
