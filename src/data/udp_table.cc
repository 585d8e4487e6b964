// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_table.h"

#include <algorithm>
#include <array>

namespace tpx::data {
namespace {

// Closed sessions keep their index until their receive has ended, a turn later.
constexpr uint32_t kClosingSlack = 4096;

// Up to this share of the sessions may wait for their first answer unmolested.
constexpr uint32_t kOneWayShare = 8;
// So few are nobody's flood.
constexpr uint32_t kFewOneWay = 16;
// Most servers have answered by then, and clients ask again.
constexpr uint64_t kAnswerMs = 250;
// A client is busy that has so many sessions, and so many times as many as clients have on average.
constexpr uint32_t kBusySessions = 32, kBusyTimes = 2;

constexpr uint32_t kPassedOver = 1024;

constexpr uint16_t kDnsPort = 53;
// A resolver library asks for a few records at once from one port, and may ask twice.
constexpr uint8_t kFewQueries = 4;

bool IsAnsweredDns(const UdpSession& s) {
  return s.target.port == kDnsPort && s.up <= s.down && s.up <= kFewQueries;
}

UdpSession* SessionOf(DeadlineHook* hook) { return static_cast<UdpSession*>(hook); }

}  // namespace

UdpTable::UdpTable(const UdpLimits& limits)
    : limits_(limits),
      slots_(limits.sessions + kClosingSlack),
      one_way_(limits.one_way_ms),
      answered_(limits.answered_ms),
      stream_(limits.stream_ms) {}

UdpSession* UdpTable::Find(const UdpKey& key) {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : found->second;
}

UdpSession* UdpTable::Victim(const IpAddr& client, bool preserved) {
  const auto found = clients_.find(client);
  const UdpClient* owner = found == clients_.end() ? nullptr : &found->second;
  if (owner != nullptr && owner->sessions >= limits_.sessions_per_client) return owner->oldest;
  const bool v4 = client.is_v4(), full = open() >= limits_.sessions;
  if (!full && (preserved || masqueraded_[v4] < limits_.masqueraded)) return nullptr;
  if (owner != nullptr && !IsFlooded() && IsBusy(*owner) && (full || !owner->oldest->preserved))
    return owner->oldest;
  return full ? Oldest() : OldestMasqueraded(v4);
}

bool UdpTable::IsBusy(const UdpClient& client) const {
  return client.sessions >= kBusySessions &&
         uint64_t{client.sessions} * clients_.size() >= uint64_t{open()} * kBusyTimes;
}

bool UdpTable::IsFlooded() const {
  return one_way_.size() > kFewOneWay && uint64_t{one_way_.size()} * kOneWayShare > open();
}

// Newcomers would replace each other before their answers come if it were always
// one of them that goes.
template <typename Choose>
UdpSession* UdpTable::FirstToGo(Choose&& choose) const {
  std::array lists = {&answered_, &stream_, &one_way_};
  if (IsFlooded()) lists = {&one_way_, &answered_, &stream_};
  for (const DeadlineList* list : lists) {
    if (DeadlineHook* hook = choose(*list); hook != nullptr) return SessionOf(hook);
  }
  return nullptr;
}

UdpSession* UdpTable::Oldest() const {
  return FirstToGo([](const DeadlineList& list) { return list.Oldest(); });
}

UdpSession* UdpTable::OldestMasqueraded(bool v4) const {
  auto fits = [v4](const UdpSession& session) { return !session.preserved && session.is_v4() == v4; };
  return FirstToGo([&](const DeadlineList& list) {
    DeadlineHook* hook = list.Oldest();
    for (uint32_t n = 0; hook != nullptr && !fits(*SessionOf(hook)); ++n) {
      hook = n < kPassedOver ? list.After(*hook) : nullptr;
    }
    return hook;
  });
}

bool UdpTable::IsAwaited(const UdpSession& session, uint64_t now_ms) {
  return session.down == 0 && now_ms < session.stamp_ms + kAnswerMs;
}

UdpSession* UdpTable::Expired(uint64_t now_ms) const {
  for (const DeadlineList* list : {&one_way_, &answered_, &stream_}) {
    if (DeadlineHook* hook = list->Expired(now_ms); hook != nullptr) return SessionOf(hook);
  }
  return nullptr;
}

uint64_t UdpTable::NextExpiry() const {
  return std::min({one_way_.NextExpiry(), answered_.NextExpiry(), stream_.NextExpiry()});
}

DeadlineList& UdpTable::ListOf(const UdpSession& session) {
  if (session.down == 0) return one_way_;
  return IsAnsweredDns(session) ? answered_ : stream_;
}

UdpSession* UdpTable::Open(const UdpKey& key, bool preserved, uint64_t now_ms, UdpSession* spare) {
  UdpSession* session = spare != nullptr ? spare : slots_.Allocate();
  if (session == nullptr) return nullptr;
  session->phase = UdpSession::Phase::kOpen;
  session->key = key;
  session->preserved = preserved;
  masqueraded_[key.client.addr.is_v4()] += !preserved;
  by_key_.emplace(key, session);
  session->owner = &clients_[key.client.addr];
  ++session->owner->sessions;
  LinkNewest(*session);
  one_way_.Add(*session, now_ms);
  return session;
}

void UdpTable::Touch(UdpSession& session, uint64_t now_ms) {
  DeadlineList& list = ListOf(session);
  if (session.list == &list) {
    list.Touch(session, now_ms);
  } else {
    list.Add(session, now_ms);
  }
  if (session.owner->newest == &session) return;
  Unlink(session);
  LinkNewest(session);
}

bool UdpTable::TouchLate(UdpSession& session, uint64_t at_ms) {
  DeadlineList& list = ListOf(session);
  const bool was_silent = list.IsWorthTouching(session, at_ms);
  if (session.list == &list && !was_silent) return false;
  list.Add(session, std::max(at_ms, session.stamp_ms));
  if (was_silent) {
    Unlink(session);
    LinkNewest(session);
  }
  return true;
}

void UdpTable::Close(UdpSession& session) {
  by_key_.erase(session.key);
  masqueraded_[session.key.client.addr.is_v4()] -= !session.preserved;
  DeadlineList::Remove(session);
  Unlink(session);
  if (--session.owner->sessions == 0) clients_.erase(session.key.client.addr);
  session.owner = nullptr;
  session.phase = UdpSession::Phase::kClosing;
}

void UdpTable::LinkNewest(UdpSession& session) {
  UdpClient& client = *session.owner;
  session.older = client.newest;
  session.newer = nullptr;
  (client.newest == nullptr ? client.oldest : client.newest->newer) = &session;
  client.newest = &session;
}

void UdpTable::Unlink(UdpSession& session) {
  UdpClient& client = *session.owner;
  (session.older == nullptr ? client.oldest : session.older->newer) = session.newer;
  (session.newer == nullptr ? client.newest : session.newer->older) = session.older;
}

}  // namespace tpx::data
