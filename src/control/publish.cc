// SPDX-License-Identifier: Apache-2.0
#include "publish.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <set>
#include <vector>

#include "tpx/base/status.h"
#include "tpx/bpf/maps.h"

namespace tpx::control {
namespace {

using bpf::Access;

constexpr uint32_t kDimensions = 2;

uint32_t SlotOf(uint32_t generation) { return generation % TPX_SLOTS; }

absl::Status FillPrefixes(const std::string& pins, const policy::CompiledPolicy& compiled,
                          uint32_t generation) {
  TPX_ASSIGN_OR_RETURN(auto outer, bpf::OpenPrefixes(pins, Access::kReadWrite));
  for (uint32_t dimension = 0; dimension < kDimensions; ++dimension) {
    const std::vector<tpx_page>& pages = compiled.pages[dimension];
    std::vector<uint32_t> numbers(pages.size());
    std::iota(numbers.begin(), numbers.end(), 0);
    const auto size = static_cast<uint32_t>(std::max<size_t>(1, pages.size()));
    TPX_ASSIGN_OR_RETURN(auto inner, (bpf::Map<uint32_t, tpx_page>::Create("tpx_pages_in", BPF_MAP_TYPE_ARRAY,
                                                                           size, BPF_F_INNER_MAP)));
    TPX_RETURN_IF_ERROR(bpf::UpdateBatch(inner.fd(), numbers.data(), sizeof(uint32_t), pages.data(),
                                         sizeof(tpx_page), pages.size(), inner.name()));
    TPX_RETURN_IF_ERROR(
        outer.Update(SlotOf(generation) * kDimensions + dimension, static_cast<uint32_t>(inner.fd())));
  }
  return absl::OkStatus();
}

using AttributesMap = bpf::Map<tpx_attribute_key, tpx_bits>;

// Has room for devices that are yet to come.
absl::Status FillAttributes(const std::string& pins, const policy::CompiledPolicy& compiled,
                            uint32_t generation) {
  TPX_ASSIGN_OR_RETURN(auto outer, bpf::OpenAttributes(pins, Access::kReadWrite));
  const auto size = static_cast<uint32_t>(compiled.attributes.size() + TPX_MAX_DEVICES);
  TPX_ASSIGN_OR_RETURN(auto inner, AttributesMap::Create("tpx_attr_in", BPF_MAP_TYPE_HASH, size));
  for (const policy::AttributeEntry& entry : compiled.attributes)
    TPX_RETURN_IF_ERROR(inner.Update(entry.key, entry.rules));
  return outer.Update(SlotOf(generation), static_cast<uint32_t>(inner.fd()));
}

// What sources have used up of rules that had these counters before.
absl::Status ForgetSources(const std::string& pins, const std::set<uint32_t>& counters) {
  if (counters.empty()) return absl::OkStatus();
  TPX_ASSIGN_OR_RETURN(auto sources, bpf::OpenSources(pins, Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(const std::vector<char> bytes, bpf::KeysOfHash(sources.fd(), sizeof(tpx_source_key),
                                                                      sizeof(tpx_source), sources.name()));
  for (size_t at = 0; at < bytes.size(); at += sizeof(tpx_source_key)) {
    tpx_source_key key;
    std::memcpy(&key, &bytes[at], sizeof(key));
    if (!counters.contains(key.counter)) continue;
    const absl::Status status = sources.Delete(key);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status UpdateAttributes(const std::string& pins, uint32_t generation,
                              const std::vector<policy::AttributeEntry>& entries) {
  if (entries.empty()) return absl::OkStatus();
  TPX_ASSIGN_OR_RETURN(auto outer, bpf::OpenAttributes(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(const uint32_t id, outer.Lookup(SlotOf(generation)));
  TPX_ASSIGN_OR_RETURN(auto inner, AttributesMap::OpenId(id, "tpx_attr_in"));
  for (const policy::AttributeEntry& entry : entries)
    TPX_RETURN_IF_ERROR(inner.Update(entry.key, entry.rules));
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> LiveGeneration(const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, Access::kReadOnly));
  return std::atomic_ref(control[0].generation).load(std::memory_order_acquire);
}

absl::StatusOr<TablesMap> FillGeneration(const std::string& pins, policy::CompiledPolicy& compiled,
                                         uint32_t generation) {
  TPX_RETURN_IF_ERROR(FillPrefixes(pins, compiled, generation));
  TPX_RETURN_IF_ERROR(FillAttributes(pins, compiled, generation));
  TPX_ASSIGN_OR_RETURN(auto outer, bpf::OpenTables(pins, Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto inner, TablesMap::Create("tpx_tables_in", BPF_MAP_TYPE_ARRAY, 1));
  compiled.tables->generation = generation;
  TPX_RETURN_IF_ERROR(inner.Update(0, *compiled.tables));
  TPX_RETURN_IF_ERROR(outer.Update(SlotOf(generation), static_cast<uint32_t>(inner.fd())));
  return inner;
}

RuleCounters AssignCounters(const RuleCounters& live, const policy::Policy& policy, tpx_tables& tables) {
  std::set<uint32_t> taken;
  for (const auto& [name, counter] : live) taken.insert(counter);
  RuleCounters counters;
  uint32_t next = 0;
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    const auto same = live.find(policy.rules[i].name);
    while (taken.contains(next)) ++next;
    const uint32_t counter = same == live.end() ? next++ : same->second;
    tables.rules[i].counter = static_cast<uint16_t>(counter);
    counters.emplace(policy.rules[i].name, counter);
  }
  return counters;
}

absl::Status ClearCounters(const std::string& pins, const RuleCounters& live, const RuleCounters& counters) {
  TPX_ASSIGN_OR_RETURN(auto hits, bpf::OpenRuleHits(pins, Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto log_rates, bpf::OpenLogRates(pins, Access::kReadWrite));
  const std::vector<tpx_count> zero(hits.cpus());
  const std::vector<tpx_log_rate> unlogged(log_rates.cpus());
  std::set<uint32_t> fresh;
  for (const auto& [name, counter] : counters) {
    if (live.contains(name)) continue;
    fresh.insert(counter);
    TPX_RETURN_IF_ERROR(hits.Update(counter, zero));
    TPX_RETURN_IF_ERROR(log_rates.Update(counter, unlogged));
  }
  return ForgetSources(pins, fresh);
}

absl::Status SwitchGeneration(const std::string& pins, uint32_t generation, const TablesMap& tables) {
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto outer, bpf::OpenTables(pins, Access::kReadWrite));
  std::atomic_ref(control[0].generation).store(generation, std::memory_order_release);
  // An update of a map of maps waits for all programs that run at that time.
  return outer.Update(SlotOf(generation), static_cast<uint32_t>(tables.fd()));
}

absl::Status DropGeneration(const std::string& pins, uint32_t generation) {
  TPX_ASSIGN_OR_RETURN(auto tables, bpf::OpenTables(pins, Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto prefixes, bpf::OpenPrefixes(pins, Access::kReadWrite));
  absl::Status status = tables.Delete(SlotOf(generation));
  if (!status.ok() && !absl::IsNotFound(status)) return status;
  for (uint32_t dimension = 0; dimension < kDimensions; ++dimension) {
    status = prefixes.Delete(SlotOf(generation) * kDimensions + dimension);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  TPX_ASSIGN_OR_RETURN(auto attributes, bpf::OpenAttributes(pins, Access::kReadWrite));
  status = attributes.Delete(SlotOf(generation));
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

}  // namespace tpx::control
