// SPDX-License-Identifier: Apache-2.0
// sk_lookup: which listener a steered flow gets, and what is left alone.
#include <netinet/in.h>

#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class Lookup : public FamilyTest {
 protected:
  LookupOutcome To(uint16_t port, uint16_t sport = kClientPort) const {
    return runner().Lookup(FlowTo(port, sport));
  }
  LookupOutcome ToOwn(const char* address, uint16_t port, uint8_t protocol = IPPROTO_TCP) const {
    return runner().Lookup(FlowOf(Address(f().client), kClientPort, Address(address), port, protocol));
  }
};
TPX_BOTH_FAMILIES(Lookup);

TEST_P(Lookup, SteeredFlowsGetTheListenerOfTheirSourceMode) {
  runner().StartWorkers(1);
  Lan(SynTo(kProxied));
  EXPECT_EQ(To(kProxied), Found(TPX_R_LK_STEERED, TPX_LISTENER(0, TPX_LISTENER_TCP_MASQUERADE)));
  Lan(SynTo(kPreserved));
  EXPECT_EQ(To(kPreserved), Found(TPX_R_LK_STEERED, TPX_LISTENER(0, TPX_LISTENER_TCP_PRESERVE)));
}

TEST_P(Lookup, WithoutWordFromTcThePolicyIsAsked) {
  runner().StartWorkers(1);
  EXPECT_EQ(To(kProxied), Found(TPX_R_LK_STEERED, TPX_LISTENER(0, TPX_LISTENER_TCP_MASQUERADE)));
  EXPECT_EQ(To(kPreserved), Found(TPX_R_LK_STEERED, TPX_LISTENER(0, TPX_LISTENER_TCP_PRESERVE)));
  EXPECT_EQ(To(kRejected), Found(TPX_R_LK_REFUSED));
  EXPECT_EQ(To(kDropped), Found(TPX_R_LK_REFUSED));
  EXPECT_EQ(To(kBypassed), Found(TPX_R_LK_NOT_OURS));
  runner().Flip(0);
  EXPECT_EQ(To(kProxied), Found(TPX_R_LK_NOT_OURS));
}

TEST_P(Lookup, ThePolicyChoosesTheSameWorkerAsTc) {
  runner().StartWorkers(8);
  for (uint16_t i = 0; i < 100; ++i) {
    auto sport = static_cast<uint16_t>(20'000 + i);
    Lan(FromClient().Tcp(sport, kProxied).Syn());
    LookupOutcome handed_over = To(kProxied, sport);
    EXPECT_EQ(handed_over.reason, TPX_R_LK_STEERED);
    EXPECT_EQ(To(kProxied, sport), handed_over);
  }
}

TEST_P(Lookup, WordFromTcOutlivesAPolicyThatSaysOtherwiseOnce) {
  Lan(SynTo(kProxied));
  runner().Publish(PolicyOf({}));
  EXPECT_EQ(To(kProxied).reason, TPX_R_LK_STEERED);
  EXPECT_EQ(To(kProxied), Found(TPX_R_LK_NOT_OURS)) << "the word is good for one packet";
}

TEST_P(Lookup, WordFromTcIsForItsFlowOnly) {
  Lan(SynTo(kProxied));
  runner().Publish(PolicyOf({}));
  for (uint16_t sport = 1; sport < 2000; ++sport) {
    EXPECT_EQ(To(kProxied, sport), Found(TPX_R_LK_NOT_OURS)) << sport;
  }
}

TEST_P(Lookup, NothingIsDeliveredWhileNobodyServes) {
  for (uint32_t worker : {0, 1}) runner().SetState(worker, TPX_WORKER_FULL);
  for (uint16_t port : {kProxied, kProxiedClosed, kProxiedReset}) {
    Lan(SynTo(port));
    EXPECT_EQ(To(port), Found(TPX_R_LK_NO_WORKER)) << port;
  }
}

TEST_P(Lookup, AWorkerThatWentAwayAfterTheDecision) {
  Lan(SynTo(kProxied));
  for (uint32_t worker : {0, 1}) runner().CloseListeners(worker);
  EXPECT_EQ(To(kProxied), Found(TPX_R_LK_NO_WORKER));
  EXPECT_EQ(To(kProxied), Found(TPX_R_LK_NO_WORKER)) << "nor does the policy find one";
}

TEST_P(Lookup, ServicesOfTheGatewayAreLeftAlone) {
  for (const char* own :
       {f().gateway, f().broadcast, f().loopback, f().link_local, f().multicast, f().metadata}) {
    for (uint16_t port : {kProxied, kDropped, kBypassed}) {
      EXPECT_EQ(ToOwn(own, port), Found(TPX_R_LK_OWN_ADDRESS)) << own;
      EXPECT_EQ(ToOwn(own, port, IPPROTO_UDP), Found(TPX_R_LK_OWN_ADDRESS)) << own;
    }
  }
}

TEST_P(Lookup, P13_TheListeningPortOfALocalAddressIsRefused) {
  for (const char* own : {f().gateway, f().loopback, f().link_local}) {
    EXPECT_EQ(ToOwn(own, runner().listen_port()), Found(TPX_R_LK_LISTENER_DIALLED)) << own;
    EXPECT_EQ(ToOwn(own, runner().listen_port(), IPPROTO_UDP), Found(TPX_R_LK_LISTENER_DIALLED)) << own;
  }
  runner().control().listen_port = 0;
  EXPECT_EQ(ToOwn(f().gateway, runner().listen_port()), Found(TPX_R_LK_OWN_ADDRESS)) << "nobody listens";
}

TEST_P(Lookup, PacketsFromTheWanFindTheKernelsOwnSockets) {
  Lan(SynTo(kProxied));
  runner().SetRole(0, TPX_ROLE_WAN);
  for (uint16_t port : {kProxied, kDropped, kBypassed}) {
    EXPECT_EQ(To(port), Found(TPX_R_LK_WAN)) << port;
    tpx_flow datagram = FlowOf(Address(f().client), kClientPort, Address(f().server), port, IPPROTO_UDP);
    EXPECT_EQ(runner().Lookup(datagram), Found(TPX_R_LK_WAN)) << port;
  }
  EXPECT_EQ(ToOwn(f().gateway, runner().listen_port()), Found(TPX_R_LK_LISTENER_DIALLED));
  EXPECT_EQ(ToOwn(f().gateway, 22), Found(TPX_R_LK_OWN_ADDRESS));
  runner().SetRole(0, TPX_ROLE_LAN);
  EXPECT_EQ(To(kProxied).reason, TPX_R_LK_STEERED);
}

}  // namespace
}  // namespace tpx::test
