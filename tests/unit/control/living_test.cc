// SPDX-License-Identifier: Apache-2.0
#include "control/living.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

namespace tpx::control {
namespace {

Treatment Proxied(tpx_source_mode source) { return {.action = TPX_ACTION_PROXY, .source = source}; }

Treatment Redirected(uint16_t port) {
  return {
      .action = TPX_ACTION_REDIRECT, .source = TPX_SOURCE_MASQUERADE, .target = {.addr = {}, .port = port}};
}

TEST(SameTreatment, IsAboutTheEffectAndNotAboutTheRule) {
  Treatment now = Proxied(TPX_SOURCE_PRESERVE), then = now;
  now.rule = "one";
  then.rule = "another";
  EXPECT_TRUE(SameTreatment(IPPROTO_TCP, now, then));
  EXPECT_FALSE(SameTreatment(IPPROTO_TCP, now, Proxied(TPX_SOURCE_MASQUERADE)));
  EXPECT_FALSE(SameTreatment(IPPROTO_TCP, now, {.action = TPX_ACTION_DROP}));
  EXPECT_FALSE(SameTreatment(IPPROTO_TCP, {.action = TPX_ACTION_BYPASS}, {.action = TPX_ACTION_REJECT}));
  EXPECT_TRUE(SameTreatment(IPPROTO_TCP, {.action = TPX_ACTION_DROP}, {.action = TPX_ACTION_DROP}));
}

TEST(SameTreatment, ComparesTargets) {
  EXPECT_TRUE(SameTreatment(IPPROTO_TCP, Redirected(80), Redirected(80)));
  EXPECT_FALSE(SameTreatment(IPPROTO_TCP, Redirected(80), Redirected(81)));
  EXPECT_FALSE(SameTreatment(IPPROTO_TCP, Redirected(80), Proxied(TPX_SOURCE_MASQUERADE)));
}

TEST(SameTreatment, TheMappingIsOfUdpAlone) {
  Treatment pair = Proxied(TPX_SOURCE_MASQUERADE);
  pair.mapping = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT;
  EXPECT_TRUE(SameTreatment(IPPROTO_TCP, Proxied(TPX_SOURCE_MASQUERADE), pair));
  EXPECT_FALSE(SameTreatment(IPPROTO_UDP, Proxied(TPX_SOURCE_MASQUERADE), pair));
}

TEST(SameTreatment, OfASessionThatIsOnlyKnownToBeProxied) {
  const Treatment proxied{.action = TPX_ACTION_PROXY};
  EXPECT_TRUE(SameTreatment(IPPROTO_TCP, proxied, Proxied(TPX_SOURCE_PRESERVE)));
  EXPECT_TRUE(SameTreatment(IPPROTO_TCP, proxied, Redirected(80)));
  EXPECT_FALSE(SameTreatment(IPPROTO_TCP, proxied, {.action = TPX_ACTION_BYPASS}));
}

TEST(TreatmentOf, TakesWhatMattersFromAVerdict) {
  tpx_verdict verdict{};
  verdict.action = TPX_ACTION_REDIRECT;
  verdict.source = TPX_SOURCE_PRESERVE;  // means nothing to a redirect
  verdict.to.port = htons(80);
  EXPECT_TRUE(SameTreatment(IPPROTO_UDP, TreatmentOf(verdict, "r"), Redirected(80)));
  EXPECT_EQ(TreatmentOf(verdict, "r").rule, "r");
  verdict.action = TPX_ACTION_DROP;
  EXPECT_EQ(TreatmentOf(verdict, "").source, std::nullopt);
}

}  // namespace
}  // namespace tpx::control
