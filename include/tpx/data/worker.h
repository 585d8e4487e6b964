// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/data/decision_source.h"
#include "tpx/data/icmp_budget.h"
#include "tpx/data/translation_map.h"
#include "tpx_abi.h"
#include "tpx_affinity.h"
#include "tpx_nat.h"

namespace tpx::data {

struct WorkerOptions {
  uint32_t id = 0;            // slot in tpx_workers and tpx_listeners
  uint16_t listen_port = 0;   // 0: any free one; all workers of a process share one port
  uint32_t max_sessions = 0;  // TCP, of this worker, at least 1
  uint32_t max_pipes = 64;
  uint32_t max_udp_sessions = 0;  // at least 1
  uint32_t max_udp_sessions_per_client = 0;
  uint32_t max_udp_masqueraded = UINT32_MAX;  // of each family; these have a port of the gateway's own each
  uint32_t max_udp_reply_sockets = 0;
  // For the sessions of both kinds together: two each for TCP, one for UDP.
  uint32_t max_descriptors = 0;
  // SO_MARK of the sockets towards clients and towards servers. A socket in
  // TIME_WAIT keeps it: a detach knows by it what the proxy left.
  uint32_t steer_mark = 0;
  uint32_t own_mark = 0;
  uint32_t connect_ms = 0;
  uint32_t idle_ms = 0;
  uint32_t half_closed_ms = 0;
  uint32_t udp_one_way_ms = 0;
  uint32_t udp_answered_ms = 0;
  uint32_t udp_stream_ms = 0;
  uint32_t drain_ms = 0;
  uint32_t lease_ms = 0;
  uint32_t keepalive_idle_s = 0;
  uint32_t keepalive_interval_s = 0;
  uint32_t keepalive_count = 0;
  // This worker's slot of the shared page: lease, state and counters. Written
  // by the worker's thread alone. Must outlive it.
  tpx_worker* shared = nullptr;
  // nf_conntrack_count of this network namespace, borrowed; -1 where there is
  // none. While it is not 0, a preserved source must not reuse the client's
  // port, because both legs would be one conntrack entry.
  int conntrack_count_fd = -1;
  // All must outlive the worker; one budget for all workers of the machine.
  DecisionSource* decisions = nullptr;
  TranslationMap* translations = nullptr;
  std::span<tpx_upstream> upstreams;   // of all ports of both families, or none
  std::span<tpx_affinity> affinities;  // TPX_AFFINITIES, or none
  IcmpBudget* icmp_budget = nullptr;
};

// One thread's data plane: a ring, its listeners, its sessions. Nothing that a packet
// needs is shared with other workers.
class Worker {
 public:
  // Creates listeners and ring on the calling thread; the ring belongs to the
  // thread that calls Begin and Run.
  static absl::StatusOr<std::unique_ptr<Worker>> Create(const WorkerOptions& options);
  virtual ~Worker() = default;

  // Borrowed; valid until the worker has finished. For the sockmap.
  virtual int listener_fd(tpx_listener kind) const = 0;
  virtual uint16_t listen_port() const = 0;

  // Takes the slot over: when it returns, the state is serving and the first
  // lease runs. Only then may BPF learn of the listeners, and anybody that the
  // gateway serves: a flow that finds no worker alive goes the way of
  // on_proxy_down.
  virtual absl::Status Begin() = 0;

  // Serves until stopped; at once after Begin, because the lease is renewed
  // from this loop and nowhere else.
  virtual void Run() = 0;

  // Any thread, any number of times. Drain: take no new flow, let sessions end
  // by themselves for drain_ms, then reset the rest; Run returns. Stop: reset
  // everything now.
  virtual void Drain() = 0;
  virtual void Stop() = 0;
};

}  // namespace tpx::data
