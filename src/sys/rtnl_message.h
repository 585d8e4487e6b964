// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <libmnl/libmnl.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tpx/base/address.h"
#include "tpx/base/status.h"
#include "tpx/sys/rtnl.h"

// Writing and reading messages of routing netlink.
namespace tpx::sys {

// Room for one request.
class RtnlRequest {
 public:
  RtnlRequest(uint16_t type, uint16_t flags) : header_(mnl_nlmsg_put_header(buffer_.data())) {
    header_->nlmsg_type = type;
    header_->nlmsg_flags = NLM_F_REQUEST | flags;
  }
  template <typename T>
  T& Extra() {
    return *static_cast<T*>(mnl_nlmsg_put_extra_header(header_, sizeof(T)));
  }
  nlmsghdr& header() { return *header_; }
  void Put(uint16_t type, uint32_t value) { mnl_attr_put_u32(header_, type, value); }
  void Put(uint16_t type, uint8_t value) { mnl_attr_put_u8(header_, type, value); }
  void Put(uint16_t type, const void* bytes, size_t size) { mnl_attr_put(header_, type, size, bytes); }
  void Put(uint16_t type, const std::string& text) { mnl_attr_put_strz(header_, type, text.c_str()); }

 private:
  static constexpr size_t kBytes = 512;
  alignas(nlmsghdr) std::array<char, kBytes> buffer_{};
  nlmsghdr* header_;
};

inline std::string AttributeText(const nlattr* attr) {
  const char* text = mnl_attr_get_str(attr);
  return std::string(text, strnlen(text, mnl_attr_get_payload_len(attr)));
}

// libmnl's own loop macros are C only.
template <typename Visit>
void ForEachAttribute(const void* first, const char* end, Visit visit) {
  const auto* attr = static_cast<const nlattr*>(first);
  while (mnl_attr_ok(attr, static_cast<int>(end - reinterpret_cast<const char*>(attr)))) {
    visit(attr);
    attr = mnl_attr_next(attr);
  }
}

template <typename Visit>
void ForEachAttribute(const nlmsghdr& message, size_t offset, Visit visit) {
  ForEachAttribute(mnl_nlmsg_get_payload_offset(&message, offset),
                   static_cast<const char*>(mnl_nlmsg_get_payload_tail(&message)), visit);
}

// Attributes by type; a type beyond the table is ignored.
class Attributes {
 public:
  template <typename Payload>
  static Attributes After(const nlmsghdr& message) {
    Attributes table;
    if (message.nlmsg_len < mnl_nlmsg_size(sizeof(Payload))) return table;
    ForEachAttribute(message, sizeof(Payload), [&](const nlattr* attr) { table.Add(attr); });
    return table;
  }
  // Those inside an attribute; none where there is no such one.
  Attributes Nested(size_t type) const {
    Attributes table;
    if (!Has(type)) return table;
    const auto* first = static_cast<const char*>(mnl_attr_get_payload(at_[type]));
    ForEachAttribute(first, first + mnl_attr_get_payload_len(at_[type]),
                     [&](const nlattr* attr) { table.Add(attr); });
    return table;
  }
  bool Has(size_t type) const { return at_[type] != nullptr; }
  uint32_t U32(size_t type, uint32_t otherwise = 0) const {
    return Fits(type, 4) ? mnl_attr_get_u32(at_[type]) : otherwise;
  }
  uint16_t U16(size_t type, uint16_t otherwise = 0) const {
    return Fits(type, 2) ? mnl_attr_get_u16(at_[type]) : otherwise;
  }
  uint8_t U8(size_t type, uint8_t otherwise = 0) const {
    return Fits(type, 1) ? mnl_attr_get_u8(at_[type]) : otherwise;
  }
  std::string Text(size_t type) const { return Has(type) ? AttributeText(at_[type]) : ""; }
  std::optional<IpAddr> Address(size_t type) const {
    IpAddr addr;
    if (Fits(type, 16)) {
      memcpy(addr.raw.w, mnl_attr_get_payload(at_[type]), 16);
    } else if (Fits(type, 4)) {
      addr.raw.w[2] = htonl(0xffff);
      memcpy(&addr.raw.w[3], mnl_attr_get_payload(at_[type]), 4);
    } else {
      return std::nullopt;
    }
    return addr;
  }

 private:
  void Add(const nlattr* attr) {
    if (mnl_attr_get_type(attr) < kTypes) at_[mnl_attr_get_type(attr)] = attr;
  }
  bool Fits(size_t type, size_t bytes) const {
    return at_[type] != nullptr && mnl_attr_get_payload_len(at_[type]) >= bytes;
  }
  static constexpr size_t kTypes = 64;  // more than any type that is read here
  std::array<const nlattr*, kTypes> at_{};
};

template <typename T, typename Parse>
absl::StatusOr<std::vector<T>> Rtnl::List(RtnlRequest& request, std::string_view what, Parse parse) {
  std::vector<T> list;
  TPX_RETURN_IF_ERROR(Dump(
      request.header(), what, [&] { list.clear(); },
      [&](const nlmsghdr& message) {
        if (std::optional<T> entry = parse(message)) list.push_back(*std::move(entry));
      }));
  return list;
}

}  // namespace tpx::sys
