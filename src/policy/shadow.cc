// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cstring>

#include "policy/classes.h"
#include "policy/link.h"
#include "policy/owner.h"
#include "tpx/policy/compile.h"

namespace tpx::policy {
namespace {

// For each rule, the rules that accept all that it accepts in the dimensions seen
// so far: those that are in every class it is in.
class Supersets {
 public:
  explicit Supersets(const tpx_tables& tables) : tables_(tables), of_(tables.n_rules) {
    for (tpx_bits& bits : of_) {
      for (auto& word : bits.word) word = ~uint64_t{0};
    }
  }

  // A dimension that gives each of its values one of these classes.
  void Restrict(const std::vector<bool>& classes) {
    for (size_t number = 0; number < classes.size(); ++number) {
      if (classes[number]) Restrict(tables_.bits[number]);
    }
  }

  // By one value of a dimension.
  void Restrict(const tpx_bits& bits) {
    for (size_t word = 0; word < TPX_RULE_WORDS; ++word) {
      for (uint64_t left = bits.word[word]; left != 0; left &= left - 1) {
        tpx_bits& superset = of_[word * 64 + static_cast<size_t>(std::countr_zero(left))];
        for (size_t i = 0; i <= word; ++i) superset.word[i] &= bits.word[i];
      }
    }
  }

  const tpx_bits& of(size_t rule) const { return of_[rule]; }

 private:
  const tpx_tables& tables_;
  std::vector<tpx_bits> of_;
};

void RestrictByLink(const Policy& policy, const CompiledPolicy& compiled, Supersets& supersets) {
  const tpx_tables& tables = *compiled.tables;
  std::vector<bool> classes(TPX_MAX_CLASSES);
  for (uint16_t number : tables.mark_class) classes[number] = true;
  supersets.Restrict(classes);
  classes.assign(TPX_MAX_CLASSES, false);
  for (uint16_t number : tables.dscp_class) classes[number] = true;
  supersets.Restrict(classes);
  supersets.Restrict(tables.bits[tables.other_class[TPX_ATTR_MAC]]);
  for (const AttributeEntry& entry : compiled.attributes) {
    if (entry.key.attribute == TPX_ATTR_MAC) supersets.Restrict(entry.rules);
  }
  for (const tpx_bits& bits : TellingDevices(policy)) supersets.Restrict(bits);
}

// Whatever there is now: a cgroup or a program may come to be.
void RestrictByOwner(const Policy& policy, Supersets& supersets) {
  const absl::StatusOr<std::vector<OwnerValues>> all = OwnerValuesOf(policy);
  if (!all.ok()) return;  // then it was not compiled either
  for (const OwnerValues& of : *all) {
    supersets.Restrict(of.others);
    const tpx_bits* last = nullptr;  // neighbours in a range have the same rules
    for (const AttributeEntry& entry : of.values) {
      if (last == nullptr || memcmp(last, &entry.rules, sizeof(*last)) != 0) supersets.Restrict(entry.rules);
      last = &entry.rules;
    }
    for (const tpx_bits& bits : of.missing) supersets.Restrict(bits);
  }
}

}  // namespace

std::vector<Shadowed> FindShadowed(const Policy& policy, const CompiledPolicy& compiled) {
  const tpx_tables& tables = *compiled.tables;
  Supersets supersets(tables);
  tpx_bits possible{};  // rules but those that match nothing
  std::vector<bool> classes(TPX_MAX_CLASSES);
  for (const auto* numbers : {&tables.proto_class, &tables.local_proto_class}) {
    for (uint16_t number : *numbers) {
      classes[number] = true;
      for (size_t i = 0; i < TPX_RULE_WORDS; ++i) possible.word[i] |= tables.bits[number].word[i];
    }
  }
  supersets.Restrict(classes);
  for (size_t dimension : {0, 1}) {
    classes.assign(TPX_MAX_CLASSES, false);
    for (uint16_t number : tables.port_class[dimension]) classes[number] = true;
    supersets.Restrict(classes);
    supersets.Restrict(compiled.address_classes[dimension]);
  }
  RestrictByLink(policy, compiled, supersets);
  RestrictByOwner(policy, supersets);
  std::vector<Shadowed> shadowed;
  for (size_t rule = 0; rule < tables.n_rules; ++rule) {
    for (size_t by = 0; by < rule && HasBit(possible, rule); ++by) {
      if (!HasBit(supersets.of(rule), by)) continue;
      shadowed.push_back({rule, by});
      break;
    }
  }
  return shadowed;
}

}  // namespace tpx::policy
