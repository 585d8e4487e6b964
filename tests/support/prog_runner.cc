// SPDX-License-Identifier: Apache-2.0
#include "support/prog_runner.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/membarrier.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <numeric>

#include "support/check.h"
#include "tpx.skel.h"

namespace tpx::test {
namespace {

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Each slot has counters of its own.

template <typename T>
T* Map(const bpf_map* map, size_t entries) {
  void* at = mmap(nullptr, sizeof(T) * entries, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
  TPX_PCHECK(at != MAP_FAILED);
  return static_cast<T*>(at);
}

void EnterOwnNetwork() {
  cpu_set_t cpu;
  CPU_ZERO(&cpu);
  CPU_SET(sched_getcpu(), &cpu);
  TPX_PCHECK(sched_setaffinity(0, sizeof(cpu), &cpu) == 0);
  TPX_PCHECK(unshare(CLONE_NEWNET) == 0);
  // The hosts of the tests, so that real sockets can have their addresses.
  Shell("ip link set lo up && ip addr add 192.0.2.2/32 dev lo && ip addr add 2001:db8:1::2/128 dev lo nodad");
  Shell("ip route add local 198.51.100.0/24 dev lo && ip -6 route add local 2001:db8:2::/64 dev lo");
  Shell("ip link add other index " + std::to_string(ProgRunner::kOtherDevice) + " type veth");
}

// Deletes all entries of a hash map.
void Empty(const bpf_map* map) {
  Bytes key(bpf_map__key_size(map));
  while (bpf_map_get_next_key(bpf_map__fd(map), nullptr, key.data()) == 0) {
    bpf_map_delete_elem(bpf_map__fd(map), key.data());
  }
}

bool IsUdp(uint32_t index) { return index % TPX_LISTENER_KINDS >= TPX_LISTENER_UDP_MASQUERADE; }

UniqueFd Listen(uint16_t port, bool udp) {
  UniqueFd fd(socket(AF_INET6, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0));
  TPX_PCHECK(fd.get() >= 0);
  const int one = 1, zero = 0;
  TPX_PCHECK(setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0);
  TPX_PCHECK(setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero)) == 0);
  TPX_PCHECK(setsockopt(fd.get(), IPPROTO_IPV6, IPV6_TRANSPARENT, &one, sizeof(one)) == 0);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(port);
  TPX_PCHECK(bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof(any)) == 0);
  TPX_PCHECK(udp || listen(fd.get(), 128) == 0);
  return fd;
}

}  // namespace

void Shell(const std::string& command) { TPX_CHECK(std::system(command.c_str()) == 0) << command; }

tpx_flow FlowOf(const IpAddr& src, uint16_t sport, const IpAddr& dst, uint16_t dport, uint8_t proto) {
  return {.src = src.raw,
          .dst = dst.raw,
          .sport = htons(sport),
          .dport = htons(dport),
          .proto = proto,
          .pad = {}};
}

bool ProgRunner::Privileged() { return geteuid() == 0; }

ProgRunner::ProgRunner() : out_(1 << 16) {
  EnterOwnNetwork();
  skeleton_ = tpx_bpf__open_and_load();
  TPX_PCHECK(skeleton_ != nullptr);
  TPX_CHECK(skeleton_->rodata->tpx_mark_mask == kMarkMask &&
            skeleton_->rodata->tpx_steer_mark == kSteerMark && skeleton_->rodata->tpx_own_mark == kOwnMark);
  control_ = Map<tpx_control>(skeleton_->maps.tpx_control, 1);
  workers_ = Map<tpx_worker>(skeleton_->maps.tpx_workers, TPX_MAX_WORKERS);
  upstreams_ = Map<tpx_upstream>(skeleton_->maps.tpx_upstreams, TPX_UPSTREAMS);
  affinities_ = Map<tpx_affinity>(skeleton_->maps.tpx_affinities, TPX_AFFINITIES);
  batch_.resize(static_cast<size_t>(TPX_REASON_COUNT * libbpf_num_possible_cpus()));
}

ProgRunner::~ProgRunner() {
  munmap(control_, sizeof(*control_));
  munmap(workers_, sizeof(*workers_) * TPX_MAX_WORKERS);
  munmap(upstreams_, sizeof(*upstreams_) * TPX_UPSTREAMS);
  munmap(affinities_, sizeof(*affinities_) * TPX_AFFINITIES);
  tpx_bpf__destroy(skeleton_);
}

void ProgRunner::Reset() {
  *control_ = {.abi_version = TPX_ABI_VERSION,
               .generation = 0,
               .n_workers = 0,
               .listen_port = 0,
               .udp_flow_s = 0,
               .udp_ended = 0,
               .netns_cookie = 0,
               .headerless = 0,
               .translates = 0,
               .watchers = 0,
               .watchers_s = 0,
               .local_filter = {}};
  std::fill_n(workers_, TPX_MAX_WORKERS, tpx_worker{});
  std::fill_n(affinities_, TPX_AFFINITIES, tpx_affinity{});
  listeners_.clear();  // closing takes them out of the sockmap
  index_by_cookie_.clear();
  for (const bpf_map* map :
       {skeleton_->maps.tpx_local, skeleton_->maps.tpx_flows, skeleton_->maps.tpx_frags,
        skeleton_->maps.tpx_devices, skeleton_->maps.tpx_sources, skeleton_->maps.tpx_nat}) {
    Empty(map);
  }
  Bytes zeros(sizeof(tpx_handoff) * 2 * static_cast<size_t>(libbpf_num_possible_cpus()), 0);
  for (uint32_t i = 0; i < TPX_HANDOFF_SLOTS; ++i) {
    bpf_map_update_elem(bpf_map__fd(skeleton_->maps.tpx_handoff), &i, zeros.data(), BPF_ANY);
  }
  AllowRefusals();
  ComeInBy(kFirstDevice);
  TakeCounts();
}

void ProgRunner::Publish(const policy::Policy& policy) {
  auto compiled = policy::Compile(policy);
  TPX_CHECK(compiled.ok()) << compiled.status();
  for (const auto& entry : policy::DeviceEntries(policy, {{"lan1", kFirstDevice}}))
    compiled->attributes.push_back(entry);
  uint32_t next = generation() + 1;
  Fill(*compiled, next);
  Flip(next);
}

void ProgRunner::Fill(const policy::CompiledPolicy& compiled, uint32_t generation) {
  uint32_t slot = generation & 1, zero = 0;
  UniqueFd tables(
      bpf_map_create(BPF_MAP_TYPE_ARRAY, "t_tables", sizeof(uint32_t), sizeof(tpx_tables), 1, nullptr));
  TPX_PCHECK(tables.get() >= 0);
  compiled.tables->generation = generation;
  for (uint32_t rule = 0; rule < compiled.tables->n_rules; ++rule) {
    compiled.tables->rules[rule].counter = static_cast<uint16_t>(CounterOf(generation, rule));
  }
  TPX_PCHECK(bpf_map_update_elem(tables.get(), &zero, compiled.tables.get(), BPF_ANY) == 0);
  for (uint32_t dimension : {TPX_DIM_SRC, TPX_DIM_DST}) {
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_INNER_MAP);
    const auto& content = compiled.pages[dimension];
    const auto size = static_cast<uint32_t>(std::max<size_t>(1, content.size()));
    UniqueFd pages(
        bpf_map_create(BPF_MAP_TYPE_ARRAY, "t_pages", sizeof(uint32_t), sizeof(tpx_page), size, &options));
    TPX_PCHECK(pages.get() >= 0);
    for (uint32_t i = 0; i < content.size(); ++i) {
      TPX_PCHECK(bpf_map_update_elem(pages.get(), &i, &content[i], BPF_ANY) == 0);
    }
    uint32_t index = slot * 2 + dimension;
    int fd = pages.get();
    TPX_PCHECK(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.tpx_prefixes), &index, &fd, BPF_ANY) == 0);
  }
  const auto values = static_cast<uint32_t>(compiled.attributes.size() + 1);
  UniqueFd attributes(bpf_map_create(BPF_MAP_TYPE_HASH, "t_attributes", sizeof(tpx_attribute_key),
                                     sizeof(tpx_bits), values, nullptr));
  TPX_PCHECK(attributes.get() >= 0);
  for (const policy::AttributeEntry& entry : compiled.attributes)
    TPX_PCHECK(bpf_map_update_elem(attributes.get(), &entry.key, &entry.rules, BPF_ANY) == 0);
  int fd = attributes.get();
  TPX_PCHECK(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.tpx_attributes), &slot, &fd, BPF_ANY) == 0);
  fd = tables.get();
  TPX_PCHECK(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.tpx_tables), &slot, &fd, BPF_ANY) == 0);
}

void ProgRunner::Flip(uint32_t generation) {
  __atomic_store_n(&control_->generation, generation, __ATOMIC_RELEASE);
  // Nobody may still be reading the other slot when it is filled next.
  TPX_PCHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0);
}

void ProgRunner::PinPolicyMaps(const std::string& dir) const {
  const auto& maps = skeleton_->maps;
  for (const bpf_map* map : {maps.tpx_control, maps.tpx_tables, maps.tpx_prefixes, maps.tpx_attributes,
                             maps.tpx_sources, maps.tpx_rule_hits, maps.tpx_log_rates}) {
    TPX_PCHECK(bpf_obj_pin(bpf_map__fd(map), (dir + "/" + bpf_map__name(map)).c_str()) == 0);
  }
}

void ProgRunner::AddLocal(const IpAddr& addr, tpx_local_kind kind) {
  uint32_t value = kind;
  const uint32_t bit = tpx_local_bit(&addr.raw);
  control_->local_filter[bit / 64] |= uint64_t{1} << bit % 64;
  TPX_PCHECK(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.tpx_local), &addr.raw, &value, BPF_ANY) == 0);
}

void ProgRunner::StartWorkers(uint32_t n) {
  port_ = 0;
  listeners_.clear();
  index_by_cookie_.clear();
  for (uint32_t index = 0; index < n * TPX_LISTENER_KINDS; ++index) {
    UniqueFd fd = Listen(port_, IsUdp(index));
    sockaddr_in6 bound{};
    socklen_t length = sizeof(bound);
    TPX_PCHECK(getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) == 0);
    port_ = ntohs(bound.sin6_port);
    uint64_t value = static_cast<uint64_t>(fd.get()), cookie = 0;
    TPX_PCHECK(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.tpx_listeners), &index, &value, BPF_ANY) == 0);
    length = sizeof(cookie);
    TPX_PCHECK(getsockopt(fd.get(), SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0);
    index_by_cookie_[cookie] = static_cast<int>(index);
    listeners_.push_back(std::move(fd));
  }
  for (uint32_t worker = 0; worker < n; ++worker) {
    SetState(worker, TPX_WORKER_SERVING);
    SetLease(worker, 3'600'000);
  }
  control_->n_workers = n;
  control_->listen_port = port_;
}

void ProgRunner::SetLease(uint32_t worker, int64_t milliseconds) {
  workers_[worker].deadline_ns = NowNs() + static_cast<uint64_t>(milliseconds * 1'000'000);
}

void ProgRunner::CloseListeners(uint32_t worker) {
  for (uint32_t kind = 0; kind < TPX_LISTENER_KINDS; ++kind) {
    listeners_.at(TPX_LISTENER(worker, kind)).Reset();
  }
}

uint64_t ProgRunner::RuleHits(uint32_t generation, uint32_t rule) const {
  std::vector<tpx_count> values(static_cast<size_t>(libbpf_num_possible_cpus()));
  uint32_t index = CounterOf(generation, rule);
  TPX_PCHECK(bpf_map_lookup_elem(bpf_map__fd(skeleton_->maps.tpx_rule_hits), &index, values.data()) == 0);
  uint64_t sum = 0;
  for (const tpx_count& value : values) sum += value.packets;
  return sum;
}

std::optional<tpx_verdict> ProgRunner::Remembered(const tpx_flow& flow) const {
  tpx_verdict verdict{};
  if (bpf_map_lookup_elem(bpf_map__fd(skeleton_->maps.tpx_flows), &flow, &verdict) != 0) return std::nullopt;
  return verdict;
}

void ProgRunner::ForgetFlows() { Empty(skeleton_->maps.tpx_flows); }

void ProgRunner::Relay(uint32_t second) {
  std::vector<uint32_t> keys(TPX_RELAYED);
  std::iota(keys.begin(), keys.end(), 0);
  const std::vector<uint32_t> values(TPX_RELAYED, second);
  uint32_t count = TPX_RELAYED;
  TPX_PCHECK(bpf_map_update_batch(bpf_map__fd(skeleton_->maps.tpx_relayed), keys.data(), values.data(),
                                  &count, nullptr) == 0);
}

void ProgRunner::AgeFlow(const tpx_flow& flow, uint32_t seconds) {
  auto verdict = Remembered(flow);
  TPX_CHECK(verdict.has_value());
  verdict->seen_s -= seconds;
  TPX_PCHECK(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.tpx_flows), &flow, &*verdict, BPF_EXIST) == 0);
}

tpx_affinity& ProgRunner::affinity(const Endpoint& client) {
  const uint64_t hash = tpx_hash_of_end(&client.addr.raw, htons(client.port));
  return affinities_[hash % TPX_AFFINITIES];
}

void ProgRunner::AgeAffinities() {
  for (uint32_t i = 0; i < TPX_AFFINITIES; ++i) {
    const uint64_t word = affinities_[i].word;
    affinities_[i].word = tpx_affinity_word(tpx_affinity_worker(word), tpx_affinity_sessions(word),
                                            tpx_affinity_seen(word) - TPX_AFFINITY_HOLD);
  }
}

void ProgRunner::SetRole(uint32_t ifindex, tpx_role role) {
  uint32_t value = role;
  TPX_PCHECK(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.tpx_devices), &ifindex, &value, BPF_ANY) == 0);
}

void ProgRunner::StopRefusals() { SetRefusals(NowNs() + 3'600'000'000'000); }

void ProgRunner::SetRefusals(uint64_t next_ns) {
  std::vector<uint64_t> values(static_cast<size_t>(libbpf_num_possible_cpus()), next_ns);
  uint32_t zero = 0;
  TPX_PCHECK(bpf_map_update_elem(bpf_map__fd(skeleton_->maps.tpx_refusals), &zero, values.data(), BPF_ANY) ==
             0);
}

std::vector<tpx_source_key> ProgRunner::Sources() const {
  std::vector<tpx_source_key> keys;
  tpx_source_key key{};
  for (void* previous = nullptr;
       bpf_map_get_next_key(bpf_map__fd(skeleton_->maps.tpx_sources), previous, &key) == 0; previous = &key) {
    keys.push_back(key);
  }
  return keys;
}

void ProgRunner::AgeSources(int64_t milliseconds) {
  const int fd = bpf_map__fd(skeleton_->maps.tpx_sources);
  const auto age = static_cast<uint64_t>(milliseconds * 1'000'000);
  for (const tpx_source_key& key : Sources()) {
    tpx_source source{};
    TPX_PCHECK(bpf_map_lookup_elem(fd, &key, &source) == 0);
    source.full_ns -= age;
    if (source.denied_ns != 0) source.denied_ns -= age;
    TPX_PCHECK(bpf_map_update_elem(fd, &key, &source, BPF_EXIST) == 0);
  }
}

void ProgRunner::AgeFragments(int64_t milliseconds) {
  int fd = bpf_map__fd(skeleton_->maps.tpx_frags);
  tpx_frag_key key{};
  for (void* previous = nullptr; bpf_map_get_next_key(fd, previous, &key) == 0; previous = &key) {
    tpx_frag frag{};
    if (bpf_map_lookup_elem(fd, &key, &frag) != 0) continue;
    frag.seen_ns -= static_cast<uint64_t>(milliseconds * 1'000'000);
    bpf_map_update_elem(fd, &key, &frag, BPF_EXIST);
  }
}

}  // namespace tpx::test
