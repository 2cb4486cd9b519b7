#include "reactor/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace reactor {
namespace {

absl::Status NoAddressError(absl::string_view ip) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(ip.substr(0, 64)), "\" is not an IP address"));
}

// What stands behind the '%'.
absl::StatusOr<uint32_t> ParseScope(absl::string_view scope) {
  uint32_t number = 0;
  if (std::all_of(scope.begin(), scope.end(), absl::ascii_isdigit) &&
      absl::SimpleAtoi(scope, &number)) {
    return number;
  }
  number = scope.size() < IF_NAMESIZE ? if_nametoindex(std::string(scope).c_str()) : 0;
  if (number != 0) return number;
  return absl::InvalidArgumentError(absl::StrCat("there is no network interface \"",
                                                 absl::CHexEscape(scope.substr(0, 64)), "\""));
}

}  // namespace

absl::StatusOr<Address> Address::Parse(absl::string_view ip, int port) {
  if (port < 0 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(port, " is not a port"));
  }
  if (ip.find('\0') != ip.npos) return NoAddressError(ip);
  Address address;
  address.port = static_cast<uint16_t>(port);
  const size_t percent = ip.find('%');
  const std::string digits(ip.substr(0, percent));
  if (percent == ip.npos && inet_pton(AF_INET, digits.c_str(), address.ip.data()) == 1) {
    address.family = AF_INET;
    return address;
  }
  if (inet_pton(AF_INET6, digits.c_str(), address.ip.data()) != 1) return NoAddressError(ip);
  address.family = AF_INET6;
  if (percent != ip.npos) {
    const absl::StatusOr<uint32_t> scope = ParseScope(ip.substr(percent + 1));
    if (!scope.ok()) return scope.status();
    address.scope_id = *scope;
  }
  return address;
}

absl::StatusOr<Address> Address::FromSockaddr(const sockaddr* address, socklen_t size) {
  Address result;
  // Copied, since where it comes from it may not be aligned.
  if (size >= sizeof(sockaddr_in) && address->sa_family == AF_INET) {
    sockaddr_in in;
    std::memcpy(&in, address, sizeof(in));
    std::memcpy(result.ip.data(), &in.sin_addr, sizeof(in.sin_addr));
    result.port = ntohs(in.sin_port);
  } else if (size >= sizeof(sockaddr_in6) && address->sa_family == AF_INET6) {
    sockaddr_in6 in;
    std::memcpy(&in, address, sizeof(in));
    std::memcpy(result.ip.data(), &in.sin6_addr, sizeof(in.sin6_addr));
    result.port = ntohs(in.sin6_port);
    result.scope_id = in.sin6_scope_id;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("not the sockaddr of an IP address: ", size, " bytes"));
  }
  result.family = address->sa_family;
  return result;
}

socklen_t Address::ToSockaddr(sockaddr_storage& storage) const {
  storage = {};
  if (family == AF_INET) {
    sockaddr_in in = {};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    std::memcpy(&in.sin_addr, ip.data(), sizeof(in.sin_addr));
    std::memcpy(&storage, &in, sizeof(in));
    return sizeof(in);
  }
  if (family == AF_INET6) {
    sockaddr_in6 in = {};
    in.sin6_family = AF_INET6;
    in.sin6_port = htons(port);
    std::memcpy(&in.sin6_addr, ip.data(), sizeof(in.sin6_addr));
    in.sin6_scope_id = scope_id;
    std::memcpy(&storage, &in, sizeof(in));
    return sizeof(in);
  }
  return 0;
}

std::string Address::IpString() const {
  char text[INET6_ADDRSTRLEN];
  if (family == AF_UNSPEC || inet_ntop(family, ip.data(), text, sizeof(text)) == nullptr) {
    return "none";
  }
  return scope_id == 0 ? std::string(text) : absl::StrCat(text, "%", scope_id);
}

std::string Address::ToString() const {
  if (family == AF_INET) return absl::StrCat(IpString(), ":", port);
  if (family == AF_INET6) return absl::StrCat("[", IpString(), "]:", port);
  return "none";
}

}  // namespace reactor
