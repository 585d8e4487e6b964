// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/decision_source.h"

#include <netinet/in.h>

namespace tpx::data {

tpx_flow FlowOf(uint8_t protocol, const Endpoint& source, const Endpoint& destination) {
  return {.src = source.addr.raw,
          .dst = destination.addr.raw,
          .sport = htons(source.port),
          .dport = htons(destination.port),
          .proto = protocol,
          .pad = {}};
}

tpx_listener UdpListenerOf(const tpx_verdict& verdict) {
  if (verdict.action == TPX_ACTION_REDIRECT || verdict.mapping == TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT)
    return TPX_LISTENER_UDP_PAIR;
  return verdict.source == TPX_SOURCE_PRESERVE ? TPX_LISTENER_UDP_PRESERVE : TPX_LISTENER_UDP_MASQUERADE;
}

Endpoint TargetOf(const tpx_verdict& verdict) {
  return {.addr = {verdict.to.addr}, .port = ntohs(verdict.to.port)};
}

tpx_target ToTarget(const Endpoint& endpoint) {
  return {.addr = endpoint.addr.raw, .port = htons(endpoint.port), .pad = 0};
}

}  // namespace tpx::data
