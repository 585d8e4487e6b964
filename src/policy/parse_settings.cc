// SPDX-License-Identifier: Apache-2.0
#include "policy/sections.h"

namespace tpx::policy {
namespace {

constexpr uint32_t kSecond = 1'000, kMinute = 60 * kSecond, kHour = 60 * kMinute;
// Linux: MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL and MAX_TCP_KEEPCNT of net/tcp.h.
constexpr uint32_t kMaxKeepaliveSeconds = 32767, kMaxKeepaliveCount = 127;
constexpr Choice<AttachMode> kAttachModes[] = {
    {"auto", AttachMode::kAuto}, {"tcx", AttachMode::kTcx}, {"clsact", AttachMode::kClsact}};

constexpr Choice<XdpMode> kXdpModes[] = {{"auto", XdpMode::kAuto},
                                         {"native", XdpMode::kNative},
                                         {"generic", XdpMode::kGeneric},
                                         {"off", XdpMode::kOff}};

Field Duration(Diagnostics& out, std::string_view key, uint32_t& ms, uint32_t min, uint32_t max) {
  return {.key = key, .read = [&out, key, &ms, min, max](const YamlNode& node) {
            ms = ReadDuration(out, node, key, min, max).value_or(ms);
          }};
}

const YamlNode* Find(const YamlNode& map, std::string_view key) {
  for (size_t i = 0; i < map.children.size(); i += 2) {
    if (map.children[i]->is_scalar() && map.children[i]->text == key) return map.children[i + 1];
  }
  return nullptr;
}

// The marks are checked together, and at whichever of them the file sets.
void CheckMarks(Diagnostics& out, const YamlNode& node, const Steering& steering) {
  const YamlNode* mask = Find(node, "mark_mask");
  auto at = [&](std::string_view key) -> const YamlNode& {
    const YamlNode* value = Find(node, key);
    return value != nullptr ? *value : mask != nullptr ? *mask : node;
  };
  if ((steering.steer_mark & ~steering.mark_mask) != 0) {
    out.Error(at("steer_mark"), "steer_mark has bits outside mark_mask");
  } else if ((steering.own_mark & ~steering.mark_mask) != 0) {
    out.Error(at("own_mark"), "own_mark has bits outside mark_mask");
  } else if (steering.steer_mark == steering.own_mark) {
    out.Error(at("own_mark"), "own_mark is the same as steer_mark");
  }
}

}  // namespace

Steering ReadSteering(Diagnostics& out, const YamlNode& node) {
  Steering s;
  size_t errors_before = out.errors();
  ReadMap(out, node, "steering",
          {UintField(out, "mark_mask", s.mark_mask, 1, UINT32_MAX),
           UintField(out, "steer_mark", s.steer_mark, 1, UINT32_MAX),
           UintField(out, "own_mark", s.own_mark, 1, UINT32_MAX),
           UintField(out, "route_table", s.route_table, 1, 1u << 31),
           UintField(out, "rule_priority", s.rule_priority, 1, 32765),
           {.key = "attach", .read = [&](const YamlNode& value) {
              s.attach = ReadChoice<AttachMode>(out, value, "attach", kAttachModes).value_or(s.attach);
            }}});
  if (out.errors() != errors_before) return s;
  CheckMarks(out, node, s);
  // RT_TABLE_DEFAULT, RT_TABLE_MAIN and RT_TABLE_LOCAL.
  if (s.route_table >= 253 && s.route_table <= 255) {
    out.Error(*Find(node, "route_table"), "route_table: 253 to 255 are the system's own tables");
  }
  return s;
}

void ReadXdp(Diagnostics& out, const YamlNode& node, XdpMode& mode) {
  mode = ReadChoice<XdpMode>(out, node, "xdp", kXdpModes).value_or(mode);
}

Proxy ReadProxy(Diagnostics& out, const YamlNode& node) {
  Proxy p;
  Timeouts& t = p.timeouts;
  Field keepalive{.key = "keepalive", .read = [&](const YamlNode& value) {
                    ReadMap(out, value, "keepalive",
                            {SecondsField(out, "idle", t.keepalive_idle_s, kMaxKeepaliveSeconds),
                             SecondsField(out, "interval", t.keepalive_interval_s, kMaxKeepaliveSeconds),
                             UintField(out, "count", t.keepalive_count, 1, kMaxKeepaliveCount)});
                  }};
  ReadMap(
      out, node, "proxy",
      {UintField(out, "workers", p.workers, 0, TPX_MAX_WORKERS),
       UintField(out, "max_sessions", p.max_sessions, 0, 10'000'000),
       UintField(out, "pipes", p.pipes, 0, 1024),
       Duration(out, "connect_timeout", t.connect_ms, 10, 10 * kMinute),
       Duration(out, "idle_timeout", t.idle_ms, 100, 168 * kHour),
       Duration(out, "half_closed_timeout", t.half_closed_ms, 100, 168 * kHour),
       Duration(out, "drain_timeout", t.drain_ms, 0, kHour), Duration(out, "lease", t.lease_ms, 100, kMinute),
       keepalive, UintField(out, "max_udp_sessions", p.max_udp_sessions, 0, 10'000'000),
       UintField(out, "max_udp_sessions_per_client", p.max_udp_sessions_per_client, 0, 10'000'000),
       UintField(out, "udp_reply_sockets", p.udp_reply_sockets, 1, 65'536),
       Duration(out, "udp_one_way", t.udp_one_way_ms, 100, 168 * kHour),
       Duration(out, "udp_answered", t.udp_answered_ms, 100, 168 * kHour),
       Duration(out, "udp_stream", t.udp_stream_ms, 100, 168 * kHour)});
  return p;
}

}  // namespace tpx::policy
