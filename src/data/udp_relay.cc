// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_relay.h"

#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <span>
#include <utility>

#include "tpx/base/status.h"
#include "tpx/data/connector.h"
#include "tpx/data/forbidden.h"
#include "tpx/sys/socket.h"

namespace tpx::data {
namespace {

constexpr uint16_t kGroup = 0;
constexpr uint16_t kBuffers = 128;
// The largest train, the addresses and control messages before it.
constexpr uint32_t kBufferSize =
    65'536 + sizeof(io_uring_recvmsg_out) + sizeof(sockaddr_storage) + sys::kUdpControlSize;

// The kernel copies the sizes from here for each receive.
constexpr msghdr kShape = [] {
  msghdr shape{};
  shape.msg_namelen = sizeof(sockaddr_storage);
  shape.msg_controllen = sys::kUdpControlSize;
  return shape;
}();

constexpr uint32_t kTurnTimeouts = 256;
constexpr uint32_t kReplyIdleMs = 60'000;
constexpr uint8_t kLastHop = 1;
constexpr int kFlowsThatWait = 8;
constexpr uint64_t kBusyMs = 1000;  // without traffic for so long, nobody waits for its sessions

constexpr tpx_listener kKinds[] = {TPX_LISTENER_UDP_MASQUERADE, TPX_LISTENER_UDP_PRESERVE,
                                   TPX_LISTENER_UDP_PAIR};

constexpr io::Token kCancelled{.kind = UdpRelay::kCancelledKind};

io::Token TokenOf(const UdpSession& session) {
  return {.index = session.index, .generation = session.generation, .kind = UdpRelay::kUpstreamKind};
}

template <typename T>
void Increment(T& saturating) {
  if (saturating != std::numeric_limits<T>::max()) ++saturating;
}

// Whether the session does what the verdict asks for.
bool Serves(const UdpSession& session, const tpx_verdict& verdict) {
  const bool redirected = verdict.action == TPX_ACTION_REDIRECT;
  if (!redirected && verdict.action != TPX_ACTION_PROXY) return false;
  if (UdpListenerOf(verdict) != session.key.listener) return false;
  if (!session.key.is_pair()) return true;
  const bool preserved = !redirected && verdict.source == TPX_SOURCE_PRESERVE;
  return preserved == session.preserved &&
         session.target == (redirected ? TargetOf(verdict) : session.key.destination);
}

}  // namespace

struct UdpRelay::Received {
  Received(io::BufferRing& buffers, const io::Ring::Completion& c);

  uint32_t datagrams() const {
    return arrival.segment_size == 0 || len <= arrival.segment_size
               ? 1
               : (len + arrival.segment_size - 1) / arrival.segment_size;
  }
  // The first of them.
  std::span<const char> first() const {
    const uint32_t segment = arrival.segment_size == 0 ? len : std::min<uint32_t>(len, arrival.segment_size);
    return {data, segment};
  }

  uint16_t buffer;
  bool cut = false;  // the kernel had to cut bytes off
  const char* data = nullptr;
  uint32_t len = 0;
  sys::UdpArrival arrival;
};

// Layout: io_uring_recvmsg_out, the name, the control messages, the bytes.
UdpRelay::Received::Received(io::BufferRing& buffers, const io::Ring::Completion& c)
    : buffer(static_cast<uint16_t>(c.buffer)) {
  char* base = buffers.data(buffer);
  const auto* out = reinterpret_cast<const io_uring_recvmsg_out*>(base);
  msghdr message{};
  message.msg_name = base + sizeof(*out);
  message.msg_namelen = out->namelen;
  message.msg_control = base + sizeof(*out) + kShape.msg_namelen;
  message.msg_controllen = std::min<size_t>(out->controllen, kShape.msg_controllen);
  const size_t head = sizeof(*out) + kShape.msg_namelen + kShape.msg_controllen;
  data = base + head;
  len = out->payloadlen;
  cut = (out->flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || c.result < static_cast<int>(head + len);
  arrival = sys::ParseUdpArrival(message);
}

absl::StatusOr<std::unique_ptr<UdpRelay>> UdpRelay::Create(const WorkerOptions& options, uint16_t port,
                                                           io::Ring& ring, SharedSlot& slot,
                                                           Descriptors& descriptors) {
  TPX_ASSIGN_OR_RETURN(auto buffers, io::BufferRing::Create(ring, kGroup, kBuffers, kBufferSize));
  TPX_ASSIGN_OR_RETURN(sys::IcmpSender icmp, sys::IcmpSender::Create(options.own_mark));
  std::unique_ptr<UdpRelay> relay(
      new UdpRelay(options, port, ring, slot, descriptors, std::move(buffers), std::move(icmp)));
  for (tpx_listener kind : kKinds) {
    TPX_ASSIGN_OR_RETURN(relay->listener_[kind], sys::TransparentUdpListener(port, options.steer_mark));
  }
  relay->reuses_sockets_ = !sys::IsBoundToDevice(relay->listener_[TPX_LISTENER_UDP_PAIR].get());
  return relay;
}

UdpRelay::UdpRelay(const WorkerOptions& options, uint16_t port, io::Ring& ring, SharedSlot& slot,
                   Descriptors& descriptors, std::unique_ptr<io::BufferRing> buffers, sys::IcmpSender icmp)
    : options_(options),
      port_(port),
      ring_(ring),
      slot_(slot),
      descriptors_(descriptors),
      buffers_(std::move(buffers)),
      table_({.sessions = options.max_udp_sessions,
              .sessions_per_client = options.max_udp_sessions_per_client,
              .masqueraded = options.max_udp_masqueraded,
              .one_way_ms = options.udp_one_way_ms,
              .answered_ms = options.udp_answered_ms,
              .stream_ms = options.udp_stream_ms}),
      affinity_(options.id, options.affinities, slot),
      answers_(options.id, options.upstreams, table_),
      translations_(options.id, options.own_mark, *options.decisions, *options.translations, slot, table_),
      errors_(std::move(icmp), *options.icmp_budget, *options.decisions, slot, table_),
      sender_(*buffers_, slot,
              [this](const DatagramSender::Failure& failure) { return errors_.OnSendFailure(failure); }),
      replies_(options.max_udp_reply_sockets, options.steer_mark, kReplyIdleMs, slot,
               [this](int fd) { sender_.FlushSocket(fd); }) {}

void UdpRelay::Start() {
  for (tpx_listener kind : kKinds) {
    Receive(listener_[kind].get(), {.index = static_cast<uint32_t>(kind), .kind = kListenerKind});
  }
}

void UdpRelay::Receive(int fd, io::Token token) { ring_.RecvmsgMultishot(fd, &kShape, kGroup, token.Pack()); }

void UdpRelay::ReceiveFrom(UdpSession& session) {
  session.receiving = true;
  session.armed_turn = turn_;
  Receive(session.upstream.get(), TokenOf(session));
}

void UdpRelay::StopReceiving(const UdpSession& session) {
  if (session.receiving) ring_.Cancel(TokenOf(session).Pack(), kCancelled.Pack());
}

void UdpRelay::OnCompletion(io::Token token, const io::Ring::Completion& completion, uint64_t now_ms) {
  if (token.kind == kListenerKind) return OnListener(completion, token.index, now_ms);
  if (token.kind == kCancelledKind) return;
  UdpSession* session = table_.FindByIndex(token.index, token.generation);
  if (session != nullptr) return OnUpstream(completion, *session, now_ms);
  slot_.Add(TPX_C_STALE_COMPLETIONS);
  if (completion.buffer >= 0) buffers_->Return(static_cast<uint16_t>(completion.buffer));
}

void UdpRelay::OnListener(const io::Ring::Completion& completion, uint32_t kind, uint64_t now_ms) {
  if (completion.buffer >= 0) {
    Received received(*buffers_, completion);
    closing_ ? buffers_->Return(received.buffer)
             : FromClient(received, static_cast<tpx_listener>(kind), now_ms);
  }
  if (completion.more || closing_) return;
  if (completion.result == -ENOBUFS) slot_.Add(TPX_C_UDP_BUFFERS_SHORT);
  starved_.push_back({.index = kind, .kind = kListenerKind});
}

void UdpRelay::OnUpstream(const io::Ring::Completion& completion, UdpSession& session, uint64_t now_ms) {
  if (!completion.more) session.receiving = false;
  const bool open = session.phase == UdpSession::Phase::kOpen;
  if (completion.buffer >= 0) {
    Received received(*buffers_, completion);
    open ? FromServer(received, session, now_ms) : buffers_->Return(received.buffer);
  }
  if (session.phase != UdpSession::Phase::kOpen) {
    if (session.receiving) return;
    session.phase == UdpSession::Phase::kSpare ? Discard(session) : table_.Free(session);
    return;
  }
  if (completion.result < 0 && completion.result != -ENOBUFS) errors_.TakeOf(session);
  if (session.receiving || session.phase != UdpSession::Phase::kOpen) return;
  if (completion.result == -ENOBUFS) slot_.Add(TPX_C_UDP_BUFFERS_SHORT);
  session.receiving = true;  // as soon as the turn ends
  starved_.push_back(TokenOf(session));
}

// What is not relayed: bytes that were cut, destinations that the proxy never
// lends itself to, and datagrams that a router would not send on either.
bool UdpRelay::Refused(const Received& received) {
  const sys::UdpArrival& arrival = received.arrival;
  if (received.cut || arrival.peer.port == 0 || arrival.destination.port == 0) {
    slot_.Add(TPX_C_UDP_DROPPED, received.datagrams());
    return true;
  }
  if (IsForbidden(arrival.peer, arrival.destination, port_)) {
    slot_.Add(TPX_C_LOOP_REFUSED, received.datagrams());
    return true;
  }
  if (arrival.hops != kLastHop) return false;
  slot_.Add(TPX_C_HOPS_EXCEEDED, received.datagrams());
  const UdpKey flow{.client = arrival.peer, .destination = arrival.destination};
  errors_.HopsExceeded(flow, received.first());
  return true;
}

void UdpRelay::FromClient(Received& received, tpx_listener kind, uint64_t now_ms) {
  const sys::UdpArrival& arrival = received.arrival;
  UdpKey key{.client = arrival.peer, .destination = {}, .listener = kind};
  if (key.is_pair()) key.destination = arrival.destination;
  UdpSession* session = Refused(received) ? nullptr : SessionFor(key, now_ms);
  if (session == nullptr) return buffers_->Return(received.buffer);
  UdpErrors::AllowFragments(
      *session,
      arrival.fragmented || (session->fragments && errors_.MayFragment(*session, arrival.destination)));
  if (!key.is_pair() && session->target.port != arrival.destination.port) {
    session->target.port = session->up == 0 ? arrival.destination.port : 0;
  }
  Confirm(*session, arrival.destination);
  Increment(session->up);
  if (answers_.Note(*session)) translations_.OnAnswer(*session, arrival.destination, now_ms);
  slot_.Add(TPX_C_UDP_DATAGRAMS_UP, received.datagrams());
  slot_.Add(TPX_C_UDP_BYTES_UP, received.len);
  Outgoing outgoing = Onward(received, *session, now_ms);
  outgoing.fd = session->upstream.get();
  outgoing.how.connected = key.is_pair();
  outgoing.how.destination = key.is_pair() ? session->target : arrival.destination;
  Send(outgoing);
}

void UdpRelay::FromServer(Received& received, UdpSession& session, uint64_t now_ms) {
  const sys::UdpArrival& arrival = received.arrival;
  if (received.cut || arrival.hops == kLastHop) {
    slot_.Add(TPX_C_UDP_DROPPED, received.datagrams());
    return buffers_->Return(received.buffer);
  }
  const Endpoint& source = session.key.is_pair() ? session.key.destination : arrival.peer;
  if (!Confirm(session, source)) {
    slot_.Add(TPX_C_UDP_ENDED, received.datagrams());
    return buffers_->Return(received.buffer);
  }
  ReplySockets::Socket reply = replies_.Get(source, now_ms);
  if (IsShortage(-reply.fd)) {
    FreeDescriptorBut(session);
    reply = replies_.Get(source, now_ms);
  }
  if (reply.fd < 0) {
    slot_.Add(reply.raw ? TPX_C_UDP_REPLY_REFUSED : TPX_C_UDP_DROPPED, received.datagrams());
    return buffers_->Return(received.buffer);
  }
  Increment(session.down);
  translations_.OnAnswer(session, source, now_ms);
  slot_.Add(TPX_C_UDP_DATAGRAMS_DOWN, received.datagrams());
  slot_.Add(TPX_C_UDP_BYTES_DOWN, received.len);
  Outgoing outgoing = Onward(received, session, now_ms);
  outgoing.fd = reply.fd;
  outgoing.how.destination = session.key.client;
  if (reply.raw) {
    slot_.Add(TPX_C_UDP_REPLIES_RAW, received.datagrams());
    outgoing.how.raw_source = source;
    outgoing.trains = false;
  }
  Send(outgoing);
}

// Whether the session may go on: not where the policy has ended all its flows, of
// which only those are known that datagrams are of. After each such change it asks
// until the answer is yes.
bool UdpRelay::Confirm(UdpSession& session, const Endpoint& server) {
  const uint32_t ended = options_.decisions->UdpEnded();
  if (session.confirmed == ended) return true;
  const auto verdict = options_.decisions->Find(FlowOf(IPPROTO_UDP, session.key.client, server));
  const bool serves =
      verdict ? Serves(session, *verdict) : options_.decisions->IsGateway(session.key.client.addr);
  if (!serves) return false;
  session.confirmed = ended;
  return true;
}

// Of many flows hardly any makes a train; then the first need not wait for the last.
void UdpRelay::Send(const Outgoing& outgoing) {
  sender_.Add(outgoing);
  if (!gathering_.on() && sender_.open() >= kFlowsThatWait) sender_.Flush();
}

// What both directions have in common.
Outgoing UdpRelay::Onward(const Received& received, UdpSession& session, uint64_t now_ms) {
  table_.Touch(session, now_ms);
  Increment(session.calls);
  ++received_;
  last_traffic_ms_ = now_ms;
  const uint8_t hops = received.arrival.hops;
  return {.session = TokenOf(session),
          .trains = !session.no_trains,
          .how = {.segment_size = received.arrival.segment_size,
                  .traffic_class = received.arrival.traffic_class,
                  .hops = static_cast<uint8_t>(hops == 0 ? 0 : hops - 1)},
          .data = received.data,
          .len = received.len,
          .buffer = received.buffer};
}

void UdpRelay::EndTurn(uint64_t now_ms) {
  sender_.Flush();
  const uint32_t sent = sender_.TakeSent();
  if (sent > 0) slot_.Add(TPX_C_UDP_SENDS, sent);
  gathering_.OnTurn(std::exchange(received_, 0), sent, now_ms);
  CloseGone();
  for (const io::Token& token : std::exchange(starved_, {})) {
    if (token.kind == kListenerKind) {
      if (!closing_) Receive(listener_[token.index].get(), token);
    } else if (UdpSession* session = table_.FindByIndex(token.index, token.generation); session != nullptr) {
      session->phase == UdpSession::Phase::kClosing ? table_.Free(*session) : ReceiveFrom(*session);
    }
  }
  TendSpares(now_ms);
  errors_.set_now(now_ms);
  answers_.Look(now_ms);
  translations_.Look(now_ms);
  for (uint32_t n = 0; n < kTurnTimeouts; ++n) {
    UdpSession* session = table_.Expired(now_ms);
    if (session == nullptr) break;
    if (answers_.Refresh(*session, now_ms)) continue;
    if (translations_.IsBusy(*session, now_ms)) {
      table_.Touch(*session, now_ms);
      continue;
    }
    slot_.Add(TPX_C_UDP_SESSIONS_AGED);
    Close(*session);
  }
  replies_.Expire(now_ms);
  ++turn_;
}

bool UdpRelay::busy(uint64_t now_ms) const {
  const uint64_t traffic_ms = std::max({last_traffic_ms_, answers_.busy_ms(), translations_.busy_ms()});
  return table_.open() > 0 && now_ms - traffic_ms < kBusyMs;
}

uint64_t UdpRelay::NextTimeout() const {
  return std::min({table_.NextExpiry(), replies_.NextExpiry(), answers_.NextLook(), translations_.NextLook(),
                   spares_.NextTimeout()});
}

void UdpRelay::CloseAll() {
  closing_ = true;
  for (tpx_listener kind : kKinds) {
    const io::Token token{.index = static_cast<uint32_t>(kind), .kind = kListenerKind};
    ring_.Cancel(token.Pack(), kCancelled.Pack());
  }
  table_.ForEach([this](UdpSession& session) {
    if (session.phase == UdpSession::Phase::kOpen) Close(session);
    if (session.phase == UdpSession::Phase::kSpare) Discard(session);
  });
}

}  // namespace tpx::data
