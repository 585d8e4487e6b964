// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_affinity.h"

#include <atomic>

#include "tpx/data/decision_source.h"

namespace tpx::data {

template <typename Change>
void UdpAffinity::Apply(const Endpoint& client, Change&& change) {
  if (affinities_.empty() || !slot_.is_ours()) return;
  const tpx_target end = ToTarget(client);
  std::atomic_ref word(affinities_[tpx_hash_of_end(&end.addr, end.port) % TPX_AFFINITIES].word);
  __u64 was = word.load(std::memory_order_relaxed);
  while (!word.compare_exchange_weak(was, change(was), std::memory_order_relaxed)) {
  }
}

void UdpAffinity::Enter(const Endpoint& client) {
  Apply(client, [this](__u64 word) {
    const __u32 sessions = tpx_affinity_sessions(word);
    return tpx_affinity_word(sessions == 0 ? worker_ : tpx_affinity_worker(word), sessions + 1,
                             tpx_affinity_seen(word));
  });
}

// None are left to end where another process has cleared it.
void UdpAffinity::Leave(const Endpoint& client) {
  Apply(client, [](__u64 word) {
    const __u32 sessions = tpx_affinity_sessions(word);
    return tpx_affinity_word(tpx_affinity_worker(word), sessions == 0 ? 0 : sessions - 1,
                             tpx_affinity_seen(word));
  });
}

}  // namespace tpx::data
