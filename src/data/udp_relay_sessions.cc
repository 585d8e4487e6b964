// SPDX-License-Identifier: Apache-2.0
// The part of UdpRelay that opens, limits and closes sessions.
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "tpx/base/clock.h"
#include "tpx/data/connector.h"
#include "tpx/data/udp_relay.h"
#include "tpx/sys/udp_socket.h"

namespace tpx::data {
namespace {

constexpr int kMostVictims = 4;

constexpr uint64_t kPortsShortMs = 1000;

// Spare sockets: so many, and one for so many sessions that are open.
constexpr uint32_t kSparesAnyway = 64, kSparesShare = 4;

constexpr uint32_t kTurnDescriptors = 256;  // more than one turn takes for TCP
constexpr int kMostDiscarded = 256;

}  // namespace

UdpSession* UdpRelay::SessionFor(const UdpKey& key, uint64_t now_ms) {
  if (UdpSession* session = table_.Find(key); session != nullptr) {
    if (!key.is_pair() || Confirm(*session, key.destination)) return session;
    Close(*session);  // the same pair, but served otherwise by now
  }
  std::optional<tpx_verdict> verdict;
  if (key.is_pair()) {
    verdict = options_.decisions->Find(FlowOf(IPPROTO_UDP, key.client, key.destination));
    if (!verdict.has_value()) {
      slot_.Add(TPX_C_UDP_UNDECIDED);
      return nullptr;
    }
  }
  const bool redirected = verdict.has_value() && verdict->action == TPX_ACTION_REDIRECT;
  const bool preserved = verdict.has_value() ? !redirected && verdict->source == TPX_SOURCE_PRESERVE
                                             : key.listener == TPX_LISTENER_UDP_PRESERVE;
  UdpSession* victim = Victim([&] { return table_.Victim(key.client.addr, preserved); }, now_ms);
  if (victim != nullptr) Replace(*victim);
  const Endpoint target = redirected ? TargetOf(*verdict) : key.destination;
  UdpSession* spare = preserved ? nullptr : spares_.Take(key, target);
  UdpSession* session = table_.Open(key, preserved, now_ms, spare);
  if (session == nullptr) return nullptr;
  affinity_.Enter(key.client);
  session->target = target;
  session->confirmed = options_.decisions->UdpEnded();
  if (int error = -OpenUpstream(*session, now_ms); error != 0) {
    slot_.Add(IsShortage(error) || error == EADDRINUSE ? TPX_C_UDP_SHORTAGE : TPX_C_UDP_DROPPED);
    End(*session);
    Discard(*session);
    return nullptr;
  }
  answers_.Announce(*session);
  spare == nullptr ? ReceiveFrom(*session) : slot_.Add(TPX_C_UDP_SOCKETS_REUSED);
  slot_.Add(TPX_C_UDP_SESSIONS_TOTAL);
  slot_.Set(TPX_C_UDP_SESSIONS, table_.open());
  return session;
}

// The one that `choose` finds by what tc has sent as well, for the first few. Those whose answers tc has sent
// must not look like a flood while somebody waits who is older than they; a preserved session's it never
// sends, so it is not asked for one of those.
UdpSession* UdpRelay::Victim(absl::FunctionRef<UdpSession*()> choose, uint64_t now_ms) {
  UdpSession* victim = choose();
  if (victim == nullptr) return nullptr;
  answers_.LookSoon(now_ms);
  if (victim->down == 0 && victim->port != 0 && answers_.LookAtWaiting(now_ms)) victim = choose();
  for (int n = 0; victim != nullptr && n < kMostVictims && answers_.Refresh(*victim, now_ms); ++n) {
    victim = choose();
  }
  return victim;
}

int UdpRelay::OpenUpstream(UdpSession& session, uint64_t now_ms) {
  if (!session.upstream) {
    if (int r = MakeUpstream(session); r < 0) return r;
  }
  if (int r = BindUpstream(session, now_ms); r < 0) return r;
  return session.key.is_pair() ? sys::ConnectUdp(session.upstream.get(), session.target) : 0;
}

int UdpRelay::MakeUpstream(UdpSession& session) {
  if (descriptors_.left() == 0) FreeDescriptorBut(session);
  int fd = sys::OpenUdpUpstream(session.is_v4(), options_.own_mark);
  if (fd < 0 && IsShortage(-fd)) {
    FreeDescriptorBut(session);
    fd = sys::OpenUdpUpstream(session.is_v4(), options_.own_mark);
  }
  if (fd < 0) return fd;
  if (!descriptors_.Take(1)) {
    close(fd);
    return -EMFILE;
  }
  session.upstream.Reset(fd);
  return 0;
}

int UdpRelay::BindUpstream(UdpSession& session, uint64_t now_ms) {
  if (!session.preserved) return TakePort(session, now_ms);
  const int fd = session.upstream.get();
  // The connected sockets of one client's port share it, and those of a killed
  // proxy hold it until the kernel has ended their receive requests.
  int r = sys::ShareUdpAddress(fd);
  if (r == 0) r = sys::BindUdpTransparent(fd, session.key.client);
  if (r == -EADDRINUSE) {
    slot_.Add(TPX_C_PORT_CHANGED);
    r = sys::BindUdpTransparent(fd, {.addr = session.key.client.addr, .port = 0});
  }
  return r;
}

// One of the gateway's own. Others may have taken more of them than the limit leaves, and may be faster
// again; then the oldest gives up its own, unless somebody waits for an answer there, which would be this
// one's.
int UdpRelay::TakePort(UdpSession& session, uint64_t now_ms) {
  const int fd = session.upstream.get();
  const bool v4 = session.is_v4();
  int r = sys::TakeUdpPort(fd, v4);
  if (r == -EADDRINUSE) ports_short_ms_ = now_ms;
  for (int tries = 0; r == -EADDRINUSE && tries < kMostVictims; ++tries) {
    UdpSession* victim = Victim([&] { return table_.OldestMasqueraded(v4); }, now_ms);
    if (victim == nullptr || victim == &session || UdpTable::IsAwaited(*victim, now_ms)) break;
    Replace(*victim);
    r = sys::TakeUdpPort(fd, v4);
  }
  return r;
}

bool UdpRelay::is_short(uint64_t now_ms) const {
  return descriptors_.left() == 0 || now_ms < ports_short_ms_ + kPortsShortMs;
}

// Where descriptors run out and none is spare, the session that was idle for longest gives its own.
void UdpRelay::FreeDescriptorBut(const UdpSession& session) {
  UdpSession* oldest = spares_.size() == 0 ? table_.Oldest() : nullptr;
  if (oldest != nullptr && oldest != &session) Replace(*oldest);
  if (UdpSession* spare = spares_.Any(); spare != nullptr) Discard(*spare);
}

void UdpRelay::Replace(UdpSession& session) {
  slot_.Add(TPX_C_UDP_SESSIONS_REPLACED);
  Close(session);
}

void UdpRelay::Close(UdpSession& session) {
  End(session);
  // The socket rests from now on, which in a long turn is not its time.
  if (spares_.size() < MostSpares() && spares_.Keep(session, MonotonicMs())) return;
  Discard(session);
}

// All but its socket.
void UdpRelay::End(UdpSession& session) {
  answers_.Withdraw(session);
  affinity_.Leave(session.key.client);
  translations_.TakeBack(session);
  if (session.upstream) sender_.FlushSocket(session.upstream.get());
  table_.Close(session);
  slot_.Set(TPX_C_UDP_SESSIONS, table_.open());
}

// With fewer no socket is spare: what TCP takes in a turn, or waits for when it is full.
uint32_t UdpRelay::FewDescriptors() const {
  return std::max(kTurnDescriptors, options_.max_sessions / 8 + 2);
}

// In proportion to what is open; and others shall have at least as many descriptors.
uint32_t UdpRelay::MostSpares() const {
  if (closing_ || !reuses_sockets_ || descriptors_.left() <= FewDescriptors()) return 0;
  return std::min(descriptors_.left(), kSparesAnyway + table_.open() / kSparesShare);
}

// The socket of an ended session.
void UdpRelay::Discard(UdpSession& session) {
  SpareUpstreams::Remove(session);
  session.phase = UdpSession::Phase::kClosing;
  if (session.upstream) descriptors_.Give(1);
  // Its port is free now, not only when the request has ended.
  if (session.upstream && !session.preserved) sys::ReleaseUdpPort(session.upstream.get());
  // A request that the kernel has not seen yet would find somebody else by the descriptor's number.
  if (session.receiving && session.armed_turn == turn_) ring_.Submit();
  StopReceiving(session);
  session.upstream.Reset();
  if (!session.receiving) table_.Free(session);
}

void UdpRelay::TendSpares(uint64_t now_ms) {
  spares_.Examine(
      now_ms, [this] { return ring_.IsIdle(); }, [this](UdpSession& session) { Discard(session); });
  for (int n = 0; descriptors_.left() < FewDescriptors() && n < kMostDiscarded; ++n) {
    UdpSession* spare = spares_.Any();
    if (spare == nullptr) break;
    Discard(*spare);
  }
  slot_.Set(TPX_C_UDP_SOCKETS_SPARE, spares_.size());
}

void UdpRelay::CloseGone() {
  for (const io::Token& token : errors_.TakeGone()) {
    UdpSession* session = table_.FindByIndex(token.index, token.generation);
    if (session != nullptr && session->phase == UdpSession::Phase::kOpen) Close(*session);
  }
}

}  // namespace tpx::data
