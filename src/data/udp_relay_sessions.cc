// SPDX-License-Identifier: Apache-2.0
// The part of UdpRelay that opens, limits and closes sessions.
#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "tpx/data/connector.h"
#include "tpx/data/udp_relay.h"
#include "tpx/sys/udp_socket.h"

namespace tpx::data {
namespace {

constexpr int kMostVictims = 4;

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
  if (UdpSession* victim = table_.Victim(key.client.addr, preserved); victim != nullptr) Replace(*victim);
  UdpSession* session = table_.Open(key, preserved, now_ms);
  if (session == nullptr) return nullptr;
  session->target = redirected ? TargetOf(*verdict) : key.destination;
  session->confirmed = options_.decisions->UdpEnded();
  if (int error = -OpenUpstream(*session); error != 0) {
    slot_.Add(IsShortage(error) || error == EADDRINUSE ? TPX_C_UDP_SHORTAGE : TPX_C_UDP_DROPPED);
    Close(*session);
    return nullptr;
  }
  ReceiveFrom(*session);
  slot_.Add(TPX_C_UDP_SESSIONS_TOTAL);
  slot_.Set(TPX_C_UDP_SESSIONS, table_.open());
  return session;
}

int UdpRelay::OpenUpstream(UdpSession& session) {
  // Where descriptors run out the session that was idle for longest gives its own.
  if (descriptors_.left() == 0) CloseOldestBut(session);
  int fd = sys::OpenUdpUpstream(session.is_v4(), options_.own_mark);
  if (fd < 0 && IsShortage(-fd)) {
    CloseOldestBut(session);
    fd = sys::OpenUdpUpstream(session.is_v4(), options_.own_mark);
  }
  if (fd < 0) return fd;
  if (!descriptors_.Take(1)) {
    close(fd);
    return -EMFILE;
  }
  session.upstream.Reset(fd);
  if (int r = BindUpstream(session); r < 0) return r;
  return session.key.is_pair() ? sys::ConnectUdp(fd, session.target) : 0;
}

int UdpRelay::BindUpstream(UdpSession& session) {
  const int fd = session.upstream.get();
  if (session.preserved) {
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
  // Others may have taken more ports than the limit leaves to them, and may be faster again.
  int r = sys::TakeUdpPort(fd, session.is_v4());
  for (int tries = 0; r == -EADDRINUSE && tries < kMostVictims; ++tries) {
    UdpSession* victim = table_.OldestMasqueraded(session.is_v4());
    if (victim == nullptr || victim == &session) break;
    translations_.TakeBack(*victim);
    sys::ReleaseUdpPort(victim->upstream.get());
    Replace(*victim);
    r = sys::TakeUdpPort(fd, session.is_v4());
  }
  return r;
}

void UdpRelay::CloseOldestBut(const UdpSession& session) {
  UdpSession* oldest = table_.Oldest();
  if (oldest != nullptr && oldest != &session) Replace(*oldest);
}

void UdpRelay::Replace(UdpSession& session) {
  slot_.Add(TPX_C_UDP_SESSIONS_REPLACED);
  Close(session);
}

void UdpRelay::Close(UdpSession& session) {
  translations_.TakeBack(session);
  if (session.upstream) {
    sender_.FlushSocket(session.upstream.get());
    descriptors_.Give(1);
  }
  table_.Close(session);
  StopReceiving(session);
  session.upstream.Reset();
  if (!session.receiving) table_.Free(session);
  slot_.Set(TPX_C_UDP_SESSIONS, table_.open());
}

void UdpRelay::CloseGone() {
  for (const io::Token& token : errors_.TakeGone()) {
    UdpSession* session = table_.FindByIndex(token.index, token.generation);
    if (session != nullptr && session->phase == UdpSession::Phase::kOpen) Close(*session);
  }
}

}  // namespace tpx::data
