// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_translations.h"

#include <netinet/in.h>
#include <string.h>

#include <algorithm>
#include <optional>

#include "tpx/sys/icmp.h"
#include "tpx/sys/socket.h"

namespace tpx::data {
namespace {

// Receive calls of a session, in both directions: what is shorter is not worth the
// system calls. Where a try came to nothing the next one takes twice as many.
constexpr uint16_t kEnough = 16, kEnoughAtMost = 32'768;
constexpr uint64_t kRoundMs = 500;
constexpr size_t kLooksAtOnce = 64;
constexpr int32_t kBusySeconds = 1;
// A pair that is silent goes back, so that the table holds only what it is good for,
// and another server of the session may have its turn.
constexpr int32_t kIdleSeconds = 10;

uint32_t Seconds(uint64_t now_ms) { return static_cast<uint32_t>(now_ms / 1000); }

// Negative where tc has seen a second begin since the worker looked at the clock.
int32_t AgeAt(uint64_t now_ms, uint32_t seen_s) { return static_cast<int32_t>(Seconds(now_ms) - seen_s); }

bool IsUnspecified(const IpAddr& addr) { return addr == IpAddr{} || addr == *IpAddr::Parse("0.0.0.0"); }

// Whether the entry is what was stored, but for what tc writes into it.
bool IsOf(const tpx_translation& found, const tpx_translation& stored) {
  return memcmp(&found, &stored, offsetof(tpx_translation, seen_s)) == 0;
}

void TryLater(UdpSession& session) {
  session.enough = std::min<uint16_t>(kEnoughAtMost, static_cast<uint16_t>(session.enough * 2));
}

}  // namespace

UdpTranslations::UdpTranslations(uint32_t worker, uint32_t own_mark, DecisionSource& decisions,
                                 TranslationMap& map, SharedSlot& slot, UdpTable& table)
    : worker_(worker), own_mark_(own_mark), decisions_(decisions), map_(map), slot_(slot), table_(table) {}

void UdpTranslations::OnAnswer(UdpSession& session, const Endpoint& server, uint64_t now_ms) {
  if (session.translation != UdpSession::kUntranslated || session.calls < session.enough) return;
  session.calls = 0;
  const uint32_t ended = decisions_.UdpEnded();
  const std::optional<tpx_verdict> verdict = decisions_.Find(FlowOf(IPPROTO_UDP, session.key.client, server));
  Pair pair{.session = &session, .up = {}, .down = {}, .seen_s = Seconds(now_ms)};
  if (!verdict || !map_.Forwards(static_cast<tpx_forward>(verdict->forward)) ||
      UdpListenerOf(*verdict) != session.key.listener || !Prepare(server, *verdict, pair)) {
    return TryLater(session);
  }
  pair.up.translation.udp_ended = pair.down.translation.udp_ended = ended;
  if (!Store(pair)) {
    slot_.Add(TPX_C_UDP_TRANSLATION_REFUSED);
    return TryLater(session);
  }
  if (pairs_.empty()) next_round_ms_ = now_ms + kRoundMs;
  session.translation = static_cast<uint32_t>(pairs_.size());
  pairs_.push_back(pair);
  slot_.Add(TPX_C_UDP_TRANSLATED_TOTAL);
  slot_.Set(TPX_C_UDP_TRANSLATED, pairs_.size());
}

// What the session's sockets would make of the datagrams. False where that is not
// to be had by another address and port in the same header.
bool UdpTranslations::Prepare(const Endpoint& server, const tpx_verdict& verdict, Pair& pair) const {
  const UdpSession& session = *pair.session;
  const Endpoint& client = session.key.client;
  const Endpoint& remote = session.key.is_pair() ? session.target : server;
  Endpoint own;
  if (sys::OriginalDestination(session.upstream.get(), own) < 0) return false;
  if (IsUnspecified(own.addr)) own.addr = sys::SourceTowards(remote.addr, own_mark_);
  const bool v4 = client.addr.is_v4();
  if (IsUnspecified(own.addr) || own.addr.is_v4() != v4 || remote.addr.is_v4() != v4) return false;
  if (decisions_.IsGateway(remote.addr)) return false;  // nothing to forward
  pair.up.arriving = FlowOf(IPPROTO_UDP, client, server);
  pair.down.arriving = FlowOf(IPPROTO_UDP, remote, own);
  for (Direction* each : {&pair.up, &pair.down}) {
    tpx_translation& t = each->translation;
    t.worker = static_cast<uint8_t>(worker_);
    t.action = verdict.action;
    t.source = verdict.source;
    t.mapping = verdict.mapping;
    t.forward = verdict.forward;
    // As if it had been seen a second ago: tc looks closely at the first of each second.
    t.seen_s = pair.seen_s - 1;
    t.relayed_s = pair.seen_s;
  }
  pair.up.translation.as = FlowOf(IPPROTO_UDP, own, remote);
  pair.up.translation.from_lan = 1;
  pair.up.translation.device_in = verdict.device;
  pair.down.translation.as = FlowOf(IPPROTO_UDP, server, client);
  return true;
}

// The answers first: those of the client's side wait for one.
bool UdpTranslations::Store(const Pair& pair) {
  if (!map_.Store(pair.down.arriving, pair.down.translation)) return false;
  if (map_.Store(pair.up.arriving, pair.up.translation)) return true;
  map_.Erase(pair.down.arriving);
  return false;
}

// What another worker stored since, for the same flow, is that one's.
void UdpTranslations::Erase(const Direction& direction) {
  const std::optional<tpx_translation> found = map_.Find(direction.arriving);
  if (found && IsOf(*found, direction.translation)) map_.Erase(direction.arriving);
}

void UdpTranslations::TakeBack(UdpSession& session) {
  if (session.translation == UdpSession::kUntranslated) return;
  Pair& pair = pairs_[session.translation];
  Erase(pair.up);
  Erase(pair.down);
  if (pair.tc_sent) {
    session.enough = kEnough;
  } else {
    TryLater(session);
  }
  session.calls = 0;
  pair = pairs_.back();
  pair.session->translation = session.translation;
  session.translation = UdpSession::kUntranslated;
  pairs_.pop_back();
  slot_.Set(TPX_C_UDP_TRANSLATED, pairs_.size());
}

bool UdpTranslations::Refresh(Pair& pair) {
  const std::optional<tpx_translation> up = map_.Find(pair.up.arriving), down = map_.Find(pair.down.arriving);
  if (!up || !down || !IsOf(*up, pair.up.translation) || !IsOf(*down, pair.down.translation) ||
      up->udp_ended != decisions_.UdpEnded() || !map_.Forwards(static_cast<tpx_forward>(up->forward)))
    return false;
  pair.up_seen_s = up->seen_s;
  pair.tc_sent = up->seen_s != pair.up.translation.seen_s;
  pair.seen_s = std::max({pair.seen_s, up->seen_s, down->seen_s});
  return true;
}

bool UdpTranslations::IsBusy(const UdpSession& session, uint64_t now_ms) {
  if (session.translation == UdpSession::kUntranslated) return false;
  Pair& pair = pairs_[session.translation];
  return Refresh(pair) && AgeAt(now_ms, pair.seen_s) <= kBusySeconds;
}

void UdpTranslations::LookAt(Pair& pair, uint64_t now_ms) {
  const uint32_t seen_before = pair.seen_s;
  const bool there = Refresh(pair);
  const int32_t age = AgeAt(now_ms, pair.seen_s), up_age = AgeAt(now_ms, pair.up_seen_s);
  if (age <= kBusySeconds) busy_ms_ = now_ms;
  if (pair.seen_s != seen_before) table_.Touch(*pair.session, now_ms);
  // What the client sends and tc does not may have another way, or another address of the gateway's, by now.
  if (pair.tc_sent && up_age <= kBusySeconds) pair.session->calls = 0;
  const bool passed_by =
      pair.session->calls >= kEnough && up_age > (pair.tc_sent ? kBusySeconds : kIdleSeconds);
  if (!there || passed_by || age > kIdleSeconds) TakeBack(*pair.session);
}

// From the last one down: what is taken back is replaced by one that was looked at.
void UdpTranslations::Look(uint64_t now_ms) {
  if (pairs_.empty() || (left_ == 0 && now_ms < next_round_ms_)) return;
  if (left_ == 0) {
    left_ = pairs_.size();
    next_round_ms_ = now_ms + kRoundMs;
  }
  left_ = std::min(left_, pairs_.size());
  for (size_t n = 0; n < kLooksAtOnce && left_ > 0; ++n) LookAt(pairs_[--left_], now_ms);
}

uint64_t UdpTranslations::NextLook() const {
  if (pairs_.empty()) return UINT64_MAX;
  return left_ == 0 ? next_round_ms_ : 0;
}

}  // namespace tpx::data
