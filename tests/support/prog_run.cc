// SPDX-License-Identifier: Apache-2.0
// One run of a program, and what came of it.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "support/check.h"
#include "support/prog_runner.h"
#include "tpx.skel.h"

namespace tpx::test {
namespace {

enum class ReasonHook { tc, lookup, local };

struct ReasonRow {
  std::string_view name;
  ReasonHook hook;
  tpx_effect effect;
};

constexpr ReasonRow kReasons[] = {
#define TPX_REASON(symbol, hook, effect, text) {#symbol, ReasonHook::hook, TPX_EFFECT_##effect},
#include "tpx_reasons.def"
#undef TPX_REASON
};

}  // namespace

std::string_view ReasonName(int reason) {
  return reason >= 0 && reason < TPX_REASON_COUNT ? kReasons[reason].name : "none or several";
}

tpx_effect EffectOf(int reason) { return kReasons[reason].effect; }

bool IsTcReason(int reason) { return kReasons[reason].hook == ReasonHook::tc; }

std::ostream& operator<<(std::ostream& out, const Outcome& o) {
  return out << ReasonName(o.reason) << " (code " << o.code << ", mark 0x" << std::hex << o.mark << std::dec
             << (o.changed ? ", bytes changed)" : ")");
}

std::ostream& operator<<(std::ostream& out, const LookupOutcome& o) {
  return out << ReasonName(o.reason) << (o.passed ? " (pass" : " (drop") << ", listener " << o.listener
             << ")";
}

Outcome Leaves(tpx_reason reason, uint32_t mark) {
  Outcome expected{.code = TC_ACT_UNSPEC, .mark = mark, .reason = reason, .changed = false};
  if (EffectOf(reason) == TPX_EFFECT_DROP) expected.code = TC_ACT_SHOT;
  if (EffectOf(reason) == TPX_EFFECT_ANSWER) {
    expected.code = TC_ACT_REDIRECT;
    expected.changed = true;
  }
  if (EffectOf(reason) == TPX_EFFECT_STEER) expected.mark = (mark & ~kMarkMask) | kSteerMark;
  return expected;
}

LookupOutcome Found(tpx_reason reason, int listener) {
  return {.passed = EffectOf(reason) != TPX_EFFECT_DROP, .reason = reason, .listener = listener};
}

int ProgRunner::program_fd(Hook hook) const {
  return bpf_program__fd(hook == Hook::kLan ? skeleton_->progs.tpx_lan : skeleton_->progs.tpx_wan);
}

int ProgRunner::lookup_fd() const { return bpf_program__fd(skeleton_->progs.tpx_sk_lookup); }

int ProgRunner::map_fd(const char* name) const {
  return bpf_object__find_map_fd_by_name(skeleton_->obj, name);
}

int ProgRunner::TestRun(Hook hook, const Bytes& frame, __sk_buff& ctx, uint32_t repeat) {
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_out = out_.data(),
              .data_size_in = static_cast<uint32_t>(frame.size()),
              .data_size_out = static_cast<uint32_t>(out_.size()), .ctx_in = &ctx, .ctx_out = &ctx,
              .ctx_size_in = sizeof(ctx), .ctx_size_out = sizeof(ctx), .repeat = static_cast<int>(repeat));
  int error = bpf_prog_test_run_opts(program_fd(hook), &options);
  retval_ = static_cast<int>(options.retval);
  left_.assign(out_.begin(), out_.begin() + (error == 0 ? options.data_size_out : 0));
  duration_ns_ = options.duration;
  return error;
}

Outcome ProgRunner::RunFast(Hook hook, const Bytes& frame, uint32_t mark, bool* refused) {
  __sk_buff ctx{};
  ctx.mark = mark;
  ctx.ifindex = device_;
  int error = TestRun(hook, frame, ctx, 1);
  if (refused != nullptr) *refused = error != 0;
  TPX_CHECK(error == 0 || refused != nullptr)
      << "the kernel refuses a frame of " << frame.size() << " bytes: " << error;
  return {.code = retval_, .mark = ctx.mark, .reason = -1, .changed = left_ != frame};
}

Outcome ProgRunner::Run(Hook hook, const Bytes& frame, uint32_t mark) {
  TakeCounts();
  Outcome outcome = RunFast(hook, frame, mark);
  auto counts = TakeCounts();
  uint64_t total = 0;
  for (int reason = 0; reason < TPX_REASON_COUNT; ++reason) {
    total += counts[static_cast<size_t>(reason)];
    if (counts[static_cast<size_t>(reason)] == 1 && IsTcReason(reason)) outcome.reason = reason;
  }
  if (total != 1) outcome.reason = -1;
  return outcome;
}

int ProgRunner::early_fd(Early early) const {
  return bpf_program__fd(early == Early::kAlone ? skeleton_->progs.tpx_xdp_early
                                                : skeleton_->progs.tpx_xdp_part);
}

Outcome ProgRunner::RunEarly(const Bytes& frame, Early early) {
  xdp_md ctx{};
  ctx.data_end = static_cast<uint32_t>(frame.size());
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_out = out_.data(),
              .data_size_in = static_cast<uint32_t>(frame.size()),
              .data_size_out = static_cast<uint32_t>(out_.size()), .ctx_in = &ctx, .ctx_out = &ctx,
              .ctx_size_in = sizeof(ctx), .ctx_size_out = sizeof(ctx), .repeat = 1);
  TakeCounts();
  TPX_PCHECK(bpf_prog_test_run_opts(early_fd(early), &options) == 0);
  left_.assign(out_.begin() + ctx.data, out_.begin() + options.data_size_out);
  Outcome outcome{.code = static_cast<int>(options.retval), .changed = left_ != frame};
  if (ctx.data != 0) outcome.noted = ReadNote(ctx.data);
  const auto counts = TakeCounts();
  for (int reason = 0; reason < TPX_REASON_COUNT; ++reason) {
    const uint64_t count = counts[static_cast<size_t>(reason)];
    if (count != 0) outcome.reason = count == 1 && outcome.reason == -1 ? reason : TPX_REASON_COUNT;
  }
  return outcome;
}

// As bpf/lib/note.h has it: a word of 64 bits, the reason, the counter.
int ProgRunner::ReadNote(size_t size) {
  uint16_t said[2];
  TPX_CHECK(size == 16);
  std::memcpy(said, out_.data() + sizeof(uint64_t), sizeof(said));
  noted_counter_ = said[1];
  return said[0];
}

double ProgRunner::Time(Hook hook, const Bytes& frame, uint32_t repeat) {
  __sk_buff ctx{};
  TPX_CHECK(TestRun(hook, frame, ctx, repeat) == 0);
  return duration_ns_;
}

LookupOutcome ProgRunner::Lookup(const tpx_flow& flow) {
  IpAddr local{flow.dst};
  bpf_sk_lookup ctx{};
  ctx.protocol = flow.proto;
  ctx.remote_port = flow.sport;
  ctx.local_port = ntohs(flow.dport);
  if (local.is_v4()) {
    ctx.family = AF_INET;
    ctx.remote_ip4 = flow.src.w[3];
    ctx.local_ip4 = flow.dst.w[3];
  } else {
    ctx.family = AF_INET6;
    std::copy_n(flow.src.w, 4, ctx.remote_ip6);
    std::copy_n(flow.dst.w, 4, ctx.local_ip6);
  }
  TakeCounts();
  LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = &ctx, .ctx_out = &ctx, .ctx_size_in = sizeof(ctx),
              .ctx_size_out = sizeof(ctx));
  TPX_PCHECK(bpf_prog_test_run_opts(lookup_fd(), &options) == 0);
  LookupOutcome outcome{.passed = options.retval == SK_PASS, .reason = -1, .listener = -1};
  auto counts = TakeCounts();
  for (int reason = 0; reason < TPX_REASON_COUNT; ++reason) {
    if (counts[static_cast<size_t>(reason)] == 1 && !IsTcReason(reason)) outcome.reason = reason;
  }
  auto chosen = index_by_cookie_.find(ctx.cookie);
  if (ctx.cookie != 0) outcome.listener = chosen == index_by_cookie_.end() ? -2 : chosen->second;
  return outcome;
}

std::array<uint64_t, TPX_REASON_COUNT> ProgRunner::TakeCounts() {
  std::array<uint32_t, TPX_REASON_COUNT> keys{};
  uint32_t position = 0, count = TPX_REASON_COUNT;
  int error = bpf_map_lookup_batch(bpf_map__fd(skeleton_->maps.tpx_counters), nullptr, &position, keys.data(),
                                   batch_.data(), &count, nullptr);
  TPX_PCHECK((error == 0 || errno == ENOENT) && count == TPX_REASON_COUNT);
  const size_t cpus = batch_.size() / TPX_REASON_COUNT;
  std::array<uint64_t, TPX_REASON_COUNT> grown{};
  for (size_t reason = 0; reason < TPX_REASON_COUNT; ++reason) {
    uint64_t sum = 0;
    for (size_t cpu = 0; cpu < cpus; ++cpu) sum += batch_[reason * cpus + cpu].packets;
    grown[reason] = sum - std::exchange(counted_[reason], sum);
    if (grown[reason] != 0) seen_.set(reason);
  }
  return grown;
}

}  // namespace tpx::test
