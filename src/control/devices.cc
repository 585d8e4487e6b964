// SPDX-License-Identifier: Apache-2.0
#include "devices.h"

#include <fnmatch.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_join.h"
#include "tpx/base/strings.h"

namespace tpx::control {
namespace {

bool IsPattern(const std::string& name) { return name.find_first_of("*?[") != std::string::npos; }

enum class Match { kNone, kPattern, kName };

Match MatchOf(const std::vector<std::string>& wanted, const sys::LinkInfo& link) {
  Match best = Match::kNone;
  for (const std::string& name : wanted) {
    if (name == link.name) return Match::kName;
    if (IsPattern(name) && !link.is_loopback() && fnmatch(name.c_str(), link.name.c_str(), 0) == 0) {
      best = Match::kPattern;
    }
  }
  return best;
}

void NoteAbsent(const std::vector<std::string>& wanted, const std::vector<sys::LinkInfo>& links,
                Resolution& resolution) {
  for (const std::string& name : wanted) {
    const bool found = std::any_of(links.begin(), links.end(), [&](const sys::LinkInfo& link) {
      return MatchOf({name}, link) != Match::kNone;
    });
    if (!found) (IsPattern(name) ? resolution.unmatched : resolution.missing).push_back(name);
  }
}

// Existing devices whose names begin with the same letters; all if there are none.
std::string Similar(const std::string& name, const std::vector<sys::LinkInfo>& links) {
  const std::string stem = name.substr(0, name.find_first_of("0123456789"));
  std::set<std::string> all;
  std::set<std::string> similar;
  for (const sys::LinkInfo& link : links) {
    if (link.is_loopback()) continue;
    all.insert(link.name);
    if (!stem.empty() && link.name.starts_with(stem)) similar.insert(link.name);
  }
  if (all.empty()) return "there is none but lo";
  return StrCat(similar.empty() ? "existing: " : "similar: ",
                absl::StrJoin(similar.empty() ? all : similar, ", "));
}

}  // namespace

Resolution ResolveDevices(const policy::Interfaces& interfaces, const std::vector<sys::LinkInfo>& links) {
  Resolution resolution;
  for (const sys::LinkInfo& link : links) {
    const Match lan = MatchOf(interfaces.lan, link);
    const Match wan = MatchOf(interfaces.wan, link);
    if (lan == Match::kNone && wan == Match::kNone) continue;
    if (lan == wan) {
      resolution.conflicts.push_back(link.name);
    } else {
      resolution.devices.push_back(
          {.name = link.name, .ifindex = link.index, .role = lan > wan ? Role::kLan : Role::kWan});
    }
  }
  NoteAbsent(interfaces.lan, links, resolution);
  NoteAbsent(interfaces.wan, links, resolution);
  return resolution;
}

std::vector<policy::DeviceName> NamesOf(const std::vector<Device>& devices,
                                        const std::vector<sys::LinkInfo>& links) {
  std::vector<policy::DeviceName> names;
  names.reserve(devices.size());
  for (const Device& device : devices) {
    const auto link = std::find_if(links.begin(), links.end(),
                                   [&](const sys::LinkInfo& l) { return l.index == device.ifindex; });
    names.push_back({.name = device.name,
                     .ifindex = static_cast<uint32_t>(device.ifindex),
                     .vlan = link == links.end() ? uint16_t{0} : link->vlan});
  }
  return names;
}

absl::Status CheckResolution(const Resolution& resolution, const std::vector<sys::LinkInfo>& links) {
  if (!resolution.missing.empty()) {
    const std::string& name = resolution.missing.front();
    return absl::NotFoundError(StrCat("there is no interface ", Quote(name), "; ", Similar(name, links)));
  }
  if (!resolution.conflicts.empty()) {
    return absl::InvalidArgumentError(StrCat("interface ", Quote(resolution.conflicts.front()),
                                             " is both LAN and WAN; name it in one of them"));
  }
  for (const Device& device : resolution.devices) {
    const bool loopback = std::any_of(links.begin(), links.end(), [&](const sys::LinkInfo& link) {
      return link.index == device.ifindex && link.is_loopback();
    });
    if (loopback) {
      return absl::InvalidArgumentError(
          StrCat("the loopback interface ", device.name, " cannot be LAN or WAN"));
    }
  }
  return absl::OkStatus();
}

}  // namespace tpx::control
