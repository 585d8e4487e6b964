// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "support/packet.h"
#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"
#include "tpx/policy/compile.h"
#include "tpx/policy/config.h"
#include "tpx_abi.h"
#include "tpx_affinity.h"
#include "tpx_nat.h"

struct __sk_buff;
struct tpx_bpf;

namespace tpx::test {

std::string_view ReasonName(int reason);
tpx_effect EffectOf(int reason);
bool IsTcReason(int reason);

// The marks that the programs are built with.
inline constexpr uint32_t kMarkMask = 0x60000000, kSteerMark = 0x20000000, kOwnMark = 0x40000000;

// How one packet left a tc program.
struct Outcome {
  int code = 0;
  uint32_t mark = 0;
  int reason = -1;       // the one tc reason that was counted; -1: none or several
  bool changed = false;  // a byte of the packet is different
  int noted = -1;        // XDP: the reason that it told tc; -1: nothing
  friend bool operator==(const Outcome&, const Outcome&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Outcome& outcome);
};

// What the effect of `reason` demands for a packet that came with `mark`.
Outcome Leaves(tpx_reason reason, uint32_t mark = 0);

// How one lookup left the sk_lookup program.
struct LookupOutcome {
  bool passed = false;
  int reason = -1;
  int listener = -1;  // index in tpx_listeners of the socket it chose
  friend bool operator==(const LookupOutcome&, const LookupOutcome&) = default;
  friend std::ostream& operator<<(std::ostream& out, const LookupOutcome& outcome);
};

LookupOutcome Found(tpx_reason reason, int listener = -1);

enum class Hook { kLan, kWan };
enum class Early { kAlone, kInDispatcher };

// The BPF programs and maps in a network namespace of their own, run with
// BPF_PROG_TEST_RUN. The thread that makes one is pinned to its CPU, because the
// programs hand over to one another per CPU.
class ProgRunner {
 public:
  static bool Privileged();

  ProgRunner();
  ~ProgRunner();
  ProgRunner(const ProgRunner&) = delete;
  ProgRunner& operator=(const ProgRunner&) = delete;

  // No policy, no workers, no addresses, empty tables. What was seen stays.
  void Reset();

  void Publish(const policy::Policy& policy);
  // Fills the slot of the next generation; Flip makes it the live one.
  void Fill(const policy::CompiledPolicy& compiled, uint32_t generation);
  void Flip(uint32_t generation);
  uint32_t generation() const { return control_->generation; }
  // Pins what publishing needs into a directory of a BPF file system, as a load does.
  void PinPolicyMaps(const std::string& dir) const;

  void AddLocal(const IpAddr& addr, tpx_local_kind kind = TPX_LOCAL_ADDRESS);

  // Workers 0 to n - 1 serve, with a real listener of each kind, all on one port.
  void StartWorkers(uint32_t n);
  void SetState(uint32_t worker, tpx_worker_state state) { workers_[worker].state = state; }
  void SetUdpSessions(uint32_t worker, uint64_t n) { workers_[worker].counter[TPX_C_UDP_SESSIONS] = n; }
  void SetRest(uint32_t worker, tpx_worker_rest rest) { workers_[worker].rest = rest; }
  void SetLease(uint32_t worker, int64_t milliseconds);
  // Since longer than a timer tick ago, which is all that the programs know of the time.
  void EndLease(uint32_t worker) { SetLease(worker, -20); }
  void CloseListeners(uint32_t worker);
  uint16_t listen_port() const { return port_; }
  int listener_fd(uint32_t worker, tpx_listener kind) const {
    return listeners_.at(TPX_LISTENER(worker, kind)).get();
  }
  tpx_control& control() { return *control_; }
  tpx_upstream& upstream(bool v4, uint16_t port) { return upstreams_[TPX_UPSTREAM(uint32_t{!v4}, port)]; }
  // Of a client's endpoint; as workers have left it, or long ago.
  tpx_affinity& affinity(const Endpoint& client);
  void AgeAffinities();
  // As if an answer to every client had gone by the stack in that second.
  void Relay(uint32_t second);

  // By which device the packets of the following runs come in: 1, which rules know
  // as "lan1", until the next Reset, or kOtherDevice.
  static constexpr uint32_t kFirstDevice = 1, kOtherDevice = 4242;
  void ComeInBy(uint32_t device) { device_ = device; }

  Outcome Run(Hook hook, const Bytes& frame, uint32_t mark = 0);
  // Without the counters: code and mark only. Aborts where the kernel does not take the frame,
  // unless `refused` is given, which then says so.
  Outcome RunFast(Hook hook, const Bytes& frame, uint32_t mark = 0, bool* refused = nullptr);
  // The XDP program, as on kFirstDevice: code is an XDP_*, reason -1 where nothing was counted. The kernel
  // gives the metadata back that it leaves, but takes none for a run of tc.
  Outcome RunEarly(const Bytes& frame, Early early = Early::kAlone);
  // Of the rule that the last note was about, or TPX_NO_RULE.
  uint16_t noted_counter() const { return noted_counter_; }
  // The packet that the last run left behind.
  const Bytes& left() const { return left_; }
  // Nanoseconds per packet over `repeat` runs.
  double Time(Hook hook, const Bytes& frame, uint32_t repeat);
  LookupOutcome Lookup(const tpx_flow& flow);

  // What was counted since the last call, or since the last Run or Lookup.
  std::array<uint64_t, TPX_REASON_COUNT> TakeCounts();
  uint64_t RuleHits(uint32_t generation, uint32_t rule) const;
  static constexpr uint32_t CounterOf(uint32_t generation, uint32_t rule) {
    return (generation & 1) * TPX_MAX_RULES + rule;
  }

  bool InFlows(const tpx_flow& flow) const { return Remembered(flow).has_value(); }
  std::optional<tpx_verdict> Remembered(const tpx_flow& flow) const;
  void ForgetFlows();
  // As if the flow's last packet had come so much earlier.
  void AgeFlow(const tpx_flow& flow, uint32_t seconds);
  // Makes every remembered fragment so much older.
  void AgeFragments(int64_t milliseconds);
  // What is kept of the sources that rules limit, and as if it were so much older.
  std::vector<tpx_source_key> Sources() const;
  void AgeSources(int64_t milliseconds);

  // Test runs have no device: lookups see its index as 0.
  void SetRole(uint32_t ifindex, tpx_role role);
  // So many ICMP errors may be sent at once again, or none for an hour.
  void AllowRefusals() { SetRefusals(0); }
  void StopRefusals();

  int program_fd(Hook hook) const;
  int lookup_fd() const;
  int map_fd(const char* name) const;
  int early_fd(Early early = Early::kAlone) const;
  const std::bitset<TPX_REASON_COUNT>& seen() const { return seen_; }

 private:
  void SetRefusals(uint64_t next_ns);
  int ReadNote(size_t size);
  int TestRun(Hook hook, const Bytes& frame, __sk_buff& ctx, uint32_t repeat);

  tpx_bpf* skeleton_ = nullptr;
  tpx_control* control_ = nullptr;
  tpx_worker* workers_ = nullptr;
  tpx_upstream* upstreams_ = nullptr;
  tpx_affinity* affinities_ = nullptr;
  uint16_t port_ = 0;
  uint32_t device_ = kFirstDevice;
  std::vector<UniqueFd> listeners_;
  std::map<uint64_t, int> index_by_cookie_;
  std::vector<tpx_count> batch_;
  Bytes out_, left_;
  uint32_t duration_ns_ = 0;
  int retval_ = 0;
  uint16_t noted_counter_ = 0;
  std::array<uint64_t, TPX_REASON_COUNT> counted_{};
  std::bitset<TPX_REASON_COUNT> seen_;
};

tpx_flow FlowOf(const IpAddr& src, uint16_t sport, const IpAddr& dst, uint16_t dport, uint8_t proto = 6);

// Runs a command of the shell and aborts when it fails.
void Shell(const std::string& command);

}  // namespace tpx::test
