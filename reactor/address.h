// An IP address and a port.

#ifndef REACTOR_ADDRESS_H_
#define REACTOR_ADDRESS_H_

#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace reactor {

// A value: copied, compared, hashed. No look-up is made here, of names neither of hosts nor of
// services.
struct Address {
  int family = AF_UNSPEC;           // AF_INET or AF_INET6; AF_UNSPEC: no address
  std::array<uint8_t, 16> ip = {};  // as on the wire; of AF_INET the first 4, and the rest is 0
  uint32_t scope_id = 0;            // of AF_INET6: the interface of a link-local address
  uint16_t port = 0;

  // "127.0.0.1", "::1", "fe80::1%2", "fe80::1%eth0". InvalidArgument: it is none of these, there is
  // no interface of that name, or `port` is not one.
  static absl::StatusOr<Address> Parse(absl::string_view ip, int port = 0);

  // InvalidArgument: of another family, or too short.
  static absl::StatusOr<Address> FromSockaddr(const sockaddr* address, socklen_t size);

  // Returns how many bytes of `storage` it takes; 0: there is no address.
  socklen_t ToSockaddr(sockaddr_storage& storage) const;

  // "127.0.0.1", "fe80::1%2"; "none".
  std::string IpString() const;
  // "127.0.0.1:80", "[fe80::1%2]:80"; "none".
  std::string ToString() const;

  friend auto operator<=>(const Address&, const Address&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Address& address) {
    return out << address.ToString();
  }
  template <typename H>
  friend H AbslHashValue(H h, const Address& address) {
    return H::combine(std::move(h), address.family, address.ip, address.scope_id, address.port);
  }
};

}  // namespace reactor

#endif  // REACTOR_ADDRESS_H_
