// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_translations.h"

#include <netinet/in.h>

#include <algorithm>
#include <optional>

#include "tpx/sys/icmp.h"
#include "tpx/sys/socket.h"

namespace tpx::data {
namespace {

// Receive calls of a session, in both directions: what is shorter is not worth the system calls.
constexpr uint8_t kEnough = 16;
constexpr uint64_t kRoundMs = 500;
constexpr size_t kLooksAtOnce = 64;
// A pair that is silent goes back, so that the table holds only what it is good for,
// and another server of the session may have its turn.
constexpr uint32_t kIdleSeconds = 10;
constexpr uint32_t kBusySeconds = 1;

uint32_t Seconds(uint64_t now_ms) { return static_cast<uint32_t>(now_ms / 1000); }

bool IsUnspecified(const IpAddr& addr) { return addr == IpAddr{} || addr == *IpAddr::Parse("0.0.0.0"); }

}  // namespace

UdpTranslations::UdpTranslations(uint32_t worker, uint32_t own_mark, DecisionSource& decisions,
                                 TranslationMap& map, SharedSlot& slot, UdpTable& table)
    : worker_(worker), own_mark_(own_mark), decisions_(decisions), map_(map), slot_(slot), table_(table) {}

void UdpTranslations::OnAnswer(UdpSession& session, const Endpoint& server, uint64_t now_ms) {
  if (session.translation != UdpSession::kUntranslated || session.stays || session.calls < kEnough) return;
  session.calls = 0;
  const uint32_t ended = decisions_.UdpEnded();
  const std::optional<tpx_verdict> verdict = decisions_.Find(FlowOf(IPPROTO_UDP, session.key.client, server));
  if (!verdict) return;
  Pair pair{.session = &session, .up = {}, .down = {}, .seen_s = Seconds(now_ms)};
  tpx_translation up{}, down{};
  if (verdict->forward != TPX_FORWARD_FIB || UdpListenerOf(*verdict) != session.key.listener ||
      !Prepare(session, server, *verdict, pair, up, down)) {
    session.stays = true;
    return;
  }
  // As if it had been seen a second ago: tc looks closely at the first of each second.
  up.udp_ended = down.udp_ended = ended;
  up.seen_s = down.seen_s = pair.seen_s - 1;
  if (!Store(pair, up, down)) return slot_.Add(TPX_C_UDP_TRANSLATION_REFUSED);
  if (pairs_.empty()) next_round_ms_ = now_ms + kRoundMs;
  session.translation = static_cast<uint32_t>(pairs_.size());
  pairs_.push_back(pair);
  slot_.Add(TPX_C_UDP_TRANSLATED_TOTAL);
  slot_.Set(TPX_C_UDP_TRANSLATED, pairs_.size());
}

// What the session's sockets would make of the datagrams. False where that is not
// to be had by another address and port in the same header.
bool UdpTranslations::Prepare(const UdpSession& session, const Endpoint& server, const tpx_verdict& verdict,
                              Pair& pair, tpx_translation& up, tpx_translation& down) const {
  const Endpoint& remote = session.key.is_pair() ? session.target : server;
  Endpoint own;
  if (sys::OriginalDestination(session.upstream.get(), own) < 0) return false;
  if (IsUnspecified(own.addr)) own.addr = sys::SourceTowards(remote.addr, own_mark_);
  const bool v4 = session.key.client.addr.is_v4();
  if (IsUnspecified(own.addr) || own.addr.is_v4() != v4 || remote.addr.is_v4() != v4) return false;
  pair.up = FlowOf(IPPROTO_UDP, session.key.client, server);
  pair.down = FlowOf(IPPROTO_UDP, remote, own);
  up.as = FlowOf(IPPROTO_UDP, own, remote);
  up.from_lan = 1;
  down.as = FlowOf(IPPROTO_UDP, server, session.key.client);
  for (tpx_translation* each : {&up, &down}) {
    each->worker = static_cast<uint8_t>(worker_);
    each->action = verdict.action;
    each->source = verdict.source;
    each->mapping = verdict.mapping;
  }
  return true;
}

// The answers first: those of the client's side wait for one.
bool UdpTranslations::Store(const Pair& pair, const tpx_translation& up, const tpx_translation& down) {
  if (!map_.Store(pair.down, down)) return false;
  if (map_.Store(pair.up, up)) return true;
  map_.Erase(pair.down);
  return false;
}

void UdpTranslations::TakeBack(UdpSession& session) {
  if (session.translation == UdpSession::kUntranslated) return;
  Pair& pair = pairs_[session.translation];
  map_.Erase(pair.up);
  map_.Erase(pair.down);
  pair = pairs_.back();
  pair.session->translation = session.translation;
  session.translation = UdpSession::kUntranslated;
  session.calls = 0;
  pairs_.pop_back();
  slot_.Set(TPX_C_UDP_TRANSLATED, pairs_.size());
}

bool UdpTranslations::Refresh(Pair& pair) {
  const std::optional<tpx_translation> up = map_.Find(pair.up), down = map_.Find(pair.down);
  if (!up || !down || up->udp_ended != decisions_.UdpEnded()) return false;
  pair.seen_s = std::max({pair.seen_s, up->seen_s, down->seen_s});
  return true;
}

bool UdpTranslations::IsBusy(const UdpSession& session, uint64_t now_ms) {
  if (session.translation == UdpSession::kUntranslated) return false;
  Pair& pair = pairs_[session.translation];
  return Refresh(pair) && Seconds(now_ms) - pair.seen_s <= kBusySeconds;
}

void UdpTranslations::LookAt(Pair& pair, uint64_t now_ms) {
  const uint32_t seen_before = pair.seen_s;
  const bool there = Refresh(pair);
  const uint32_t age = Seconds(now_ms) - pair.seen_s;
  if (age <= kBusySeconds) busy_ms_ = now_ms;
  if (pair.seen_s != seen_before) table_.Touch(*pair.session, now_ms);
  // What goes on, but not by tc, may have another way or another address of the gateway's by now.
  const bool passed_by = age > kBusySeconds && pair.session->calls >= kEnough;
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
